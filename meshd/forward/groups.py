"""Group addresses: which go to everybody, and which only to hosts whose containers have joined.

A flow is decided by MACs, and a group's MAC keeps only a part of its address (RFC 1112: 23 bits of IPv4, RFC 2464: 32 bits of
IPv6). So a MAC is *joined for* (`GROUP`) where nothing that everybody must hear has it:

    01:00:5e:00:00:xx        224.0.0.x, what routers and mDNS say to the link: always flooded
    01:00:5e:…               by membership
    33:33:00:00:00:xx        ff0x::1 to ff0x::ff, likewise: all nodes, all routers, mDNS, VRRP
    33:33:ff:…               solicited node: neighbour discovery hangs on it
    33:33:…                  by membership
    all others               no IP: nobody can join, so everybody gets it

`GroupTable` knows what every host wants. A host of which nothing is known wants everything, so that multicast to a host that says
nothing (of an older version, or just begun) is flooded and never lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshd.ids import HostId, Mac

__all__ = ["EVERYTHING", "MAX_MEMBERS", "GroupTable", "Wanted", "group_mac", "is_joinable"]

MAX_MEMBERS = 32  # hosts that get a copy each from the sender; above, the flood tree shares the work

_IPV4_PREFIX, _IPV6_PREFIX, _SOLICITED = b"\x01\x00\x5e", b"\x33\x33", b"\x33\x33\xff"
_LINK4, _LINK6 = b"\x01\x00\x5e\x00\x00", b"\x33\x33\x00\x00\x00"


@dataclass(slots=True, frozen=True, kw_only=True)
class Wanted:
    """What one host wants to get. `everything`: all groups, and what other containers say about theirs (RFC 4541, 2.1.1)."""

    everything: bool = False
    groups: frozenset[bytes] = field(default_factory=frozenset)  # addresses, 4 or 16 bytes


EVERYTHING = Wanted(everything=True)


def is_joinable(mac: bytes) -> bool:
    """Whether frames to this group address go to members only."""
    if mac[:3] == _IPV4_PREFIX:
        return mac[3] < 0x80 and mac[:5] != _LINK4  # the other half of the prefix is not IPv4's
    return mac[:2] == _IPV6_PREFIX and mac[:3] != _SOLICITED and mac[:5] != _LINK6


def group_mac(address: bytes) -> Mac:
    """The MAC that a group's frames have."""
    if len(address) == 4:
        return Mac(_IPV4_PREFIX + bytes([address[1] & 0x7F]) + address[2:])
    return Mac(_IPV6_PREFIX + address[12:])


class GroupTable:
    """What each host wants, by the group's MAC. Hosts that cannot be reached are hidden, as in the FDB."""

    __slots__ = ("_by_mac", "_hungry", "_reachable", "_wanted")

    def __init__(self) -> None:
        self._wanted: dict[HostId, Wanted] = {}
        self._by_mac: dict[Mac, set[HostId]] = {}
        self._reachable: frozenset[HostId] = frozenset()
        self._hungry: frozenset[HostId] = frozenset()  # reachable, and want everything

    @property
    def wanted(self) -> Mapping[HostId, Wanted]:
        return self._wanted

    def set_wanted(self, host: HostId, wanted: Wanted | None) -> bool:
        """None: nothing is known of it any more. True if anybody's frames may go elsewhere now."""
        before = self._wanted.pop(host, None)
        if before is not None:
            for mac in {group_mac(address) for address in before.groups}:
                hosts = self._by_mac[mac]
                hosts.discard(host)
                if not hosts:
                    del self._by_mac[mac]
        if wanted is not None:
            self._wanted[host] = wanted
            for address in wanted.groups:
                self._by_mac.setdefault(group_mac(address), set()).add(host)
        self._find_hungry()
        return before != wanted

    def set_reachable(self, hosts: Iterable[HostId]) -> bool:
        """The other hosts that can be reached. True if that is a change."""
        reachable = frozenset(hosts)
        changed = reachable != self._reachable
        self._reachable = reachable
        self._find_hungry()
        return changed

    def hungry(self) -> frozenset[HostId]:
        """The reachable hosts that want everything."""
        return self._hungry

    def members(self, mac: Mac) -> list[HostId] | None:
        """The reachable hosts that want this group's frames, in a steady order; None: too many, or all of them: flood."""
        members = self._hungry | (self._by_mac.get(mac, set()) & self._reachable)
        if len(members) > MAX_MEMBERS or members == self._reachable:
            return None
        return sorted(members)

    def _find_hungry(self) -> None:
        self._hungry = frozenset(host for host in self._reachable if self._wanted.get(host, EVERYTHING).everything)
