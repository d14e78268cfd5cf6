"""The address table of the mesh: which container has an IP address, and which addresses two of them have.

Addresses come from attachments only (never from captured ARP). An address may be claimed twice, by a mistake or after a
partition: then the lower host id is its *holder*, the one that ARP answers name, and all claims are shown as a conflict. Of
one host, the lower label. `attach` asks `taken` first, and refuses with the name of who has it. As in the FDB, claims of
hosts that cannot be reached are hidden, not removed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from meshd.drops import DropCounters, DropReason
from meshd.errors import LocalProtocolError
from meshd.ids import HostId, Mac, SegmentId

__all__ = ["MAX_ADDRESSES", "Address", "AddressConflict", "AddressKey", "AddressTable", "Holder"]

MAX_ADDRESSES = 65_536  # claims of all other hosts together, like the MACs

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address | bytes


class AddressKey(NamedTuple):
    """`packed` is 4 or 16 bytes, as on the wire: what ARP and ND carry."""

    segment: SegmentId
    packed: bytes

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.packed)


class Holder(NamedTuple):
    """One claim, in the order of precedence. `label` names the attachment (container) on its host."""

    host: HostId
    label: str
    mac: Mac
    prefix_len: int


@dataclass(slots=True, frozen=True, kw_only=True)
class AddressConflict:
    """An address claimed more than once by reachable hosts; the first of the holders answers."""

    segment: SegmentId
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    holders: tuple[Holder, ...]


class AddressTable:
    """Claims per (segment, address). At first only this host is reachable, see `set_reachable`.

    Changes return whether the *answer* changed: the holder, its MAC or prefix length.
    """

    __slots__ = ("_by_host", "_claims", "_others", "_reachable", "_self", "drops")

    def __init__(self, self_id: HostId, drops: DropCounters | None = None) -> None:
        self._self = self_id
        self._claims: dict[AddressKey, dict[tuple[HostId, str], Holder]] = {}
        self._by_host: dict[HostId, set[AddressKey]] = {}
        self._reachable: frozenset[HostId] = frozenset({self_id})
        self._others = 0
        self.drops = drops if drops is not None else DropCounters()

    def __len__(self) -> int:
        return len(self._claims)

    def set_holder(
        self, host: HostId, segment: SegmentId, address: Address, label: str, mac: Mac, prefix_len: int
    ) -> bool:
        """Note that this attachment has the address, replacing what it said before.

        A claim of another host beyond MAX_ADDRESSES is ignored and counted (TABLE_FULL). Raises LocalProtocolError for bytes
        that are no address and for a prefix that is too long.
        """
        key = _key(segment, address)
        if not 0 <= prefix_len <= 8 * len(key.packed):
            raise LocalProtocolError(f"prefix length {prefix_len} of {key.address}")
        claims = self._claims.get(key, {})
        if (host, label) not in claims and host != self._self:
            if self._others >= MAX_ADDRESSES:
                self.drops.add(DropReason.TABLE_FULL)
                return False
            self._others += 1
        before = self._best(key)
        self._claims.setdefault(key, claims)[host, label] = Holder(host, label, mac, prefix_len)
        self._by_host.setdefault(host, set()).add(key)
        return self._best(key) != before

    def drop_holder(self, host: HostId, segment: SegmentId, address: Address, label: str | None = None) -> bool:
        """Forget this host's claims of the address (only that attachment's, where told)."""
        return self._drop(host, _key(segment, address), label)

    def drop_host(self, host: HostId) -> list[AddressKey]:
        """Forget all claims of a host; returns the addresses whose answer changed."""
        return [key for key in sorted(self._by_host.get(host, ())) if self._drop(host, key, None)]

    def set_reachable(self, hosts: Iterable[HostId]) -> list[AddressKey]:
        """These hosts, and this one, can be reached; claims of all others are hidden. Returns addresses whose answer changed."""
        reachable = frozenset(hosts) | {self._self}
        touched: set[AddressKey] = set()
        for host in reachable ^ self._reachable:
            touched |= self._by_host.get(host, set())
        before = {key: self._best(key) for key in touched}
        self._reachable = reachable
        return [key for key in sorted(touched) if self._best(key) != before[key]]

    def holder(self, segment: SegmentId, address: Address) -> Holder | None:
        """Who answers for the address."""
        return self._best(_key(segment, address))

    def holders(self, segment: SegmentId, address: Address) -> tuple[Holder, ...]:
        """All claims of reachable hosts, the one that answers first."""
        return self._visible(_key(segment, address))

    def taken(self, segment: SegmentId, address: Address, host: HostId, label: str) -> Holder | None:
        """Who else than this attachment has the address; None: it may have it (or has it already)."""
        others = (h for h in self.holders(segment, address) if (h.host, h.label) != (host, label))
        return next(others, None)

    def conflicts(self) -> list[AddressConflict]:
        found = []
        for key in sorted(self._claims):
            holders = self._visible(key)
            if len(holders) > 1:
                found.append(AddressConflict(segment=key.segment, address=key.address, holders=holders))
        return found

    def views(self) -> list[tuple[AddressKey, Holder]]:
        """Every address and who answers for it, sorted."""
        return [(key, best) for key in sorted(self._claims) if (best := self._best(key)) is not None]

    def _visible(self, key: AddressKey) -> tuple[Holder, ...]:
        return tuple(sorted(h for h in self._claims.get(key, {}).values() if h.host in self._reachable))

    def _best(self, key: AddressKey) -> Holder | None:
        return min((h for h in self._claims.get(key, {}).values() if h.host in self._reachable), default=None)

    def _drop(self, host: HostId, key: AddressKey, label: str | None) -> bool:
        claims = self._claims.get(key, {})
        before = self._best(key)
        for claim in [claim for claim in claims if claim[0] == host and label in (None, claim[1])]:
            del claims[claim]
            self._others -= host != self._self
        if not any(other == host for other, _ in claims):
            keys = self._by_host.get(host, set())
            keys.discard(key)
            if not keys:
                self._by_host.pop(host, None)
        if not claims:
            self._claims.pop(key, None)
        return self._best(key) != before


def _key(segment: SegmentId, address: Address) -> AddressKey:
    packed = address if isinstance(address, bytes) else address.packed
    if len(packed) not in (4, 16):
        raise LocalProtocolError(f"an address of {len(packed)} bytes")
    return AddressKey(segment, packed)
