"""What the records say, as tables: hosts by id and by key, MAC and address claims, the link-state graph.

`apply` takes one change of the gossip store and keeps the tables equal to the records; what followed comes back as `Applied`. A
value that does not decode is counted (BAD_RECORD) and means nothing here; the record itself is still passed on by the store. Of
this host's own records only `host` and `links` go through here: its claims were set when they were made.

A claim that changes is compared with what it said before, which is kept decoded (`_claimed`): records may come fast.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from meshd.drops import DropCounters, DropReason
from meshd.errors import DecodeError
from meshd.forward.addresses import AddressTable
from meshd.forward.claims import ClaimKind
from meshd.forward.fdb import Fdb
from meshd.forward.groups import GroupTable, Wanted
from meshd.gossip.store import Changed
from meshd.gossip.topology import Topology
from meshd.gossip.values import (
    HOST_KEY,
    LINKS_KEY,
    AttachmentValue,
    GroupsValue,
    HostValue,
    LearnedValue,
    LinksValue,
    Value,
    decode_value,
    groups_key,
)
from meshd.ids import HostId, Mac, SegmentId, ShortId, format_mac, host_name, peer_label, short_id

__all__ = ["Applied", "Directory"]

_Claim = AttachmentValue | LearnedValue
_OWN = (HOST_KEY, LINKS_KEY)
_GROUPS = groups_key(SegmentId(0))


@dataclass(slots=True, frozen=True, kw_only=True)
class Applied:
    """What a change came to."""

    host: HostId | None = None  # this host's record is new, other, or gone
    topology: bool = False  # other edges, or hosts at their ends
    owners: tuple[Mac, ...] = ()  # MACs whose owner is another now, or has them attached now, or no longer
    groups: bool = False  # frames to some group may go elsewhere now


class Directory:
    """`fdb`, `addresses` and `topology` are filled here and read everywhere."""

    def __init__(self, self_id: HostId, drops: DropCounters) -> None:
        self._self = self_id
        self._drops = drops
        self.fdb = Fdb(self_id, drops)
        self.addresses = AddressTable(self_id, drops)
        self.groups = GroupTable()
        self.topology = Topology(short_id(self_id))
        self.hosts: dict[HostId, HostValue] = {}
        self.attachments: dict[tuple[HostId, str], AttachmentValue] = {}  # by container id
        self._claimed: dict[
            tuple[HostId, bytes], _Claim
        ] = {}  # of others, by key; one for each record in the store at most
        self._by_static: dict[bytes, set[HostId]] = {}
        self._by_short: dict[ShortId, HostId] = {short_id(self_id): self_id}

    # ── who is who

    def host_of_static(self, static: bytes) -> HostId | None:
        """The host whose record names this X25519 key. None where several do: copying another's key must gain nothing."""
        hosts = self._by_static.get(static, set())
        return next(iter(hosts)) if len(hosts) == 1 else None

    def identity_of_static(self, static: bytes) -> bytes | None:
        """The Ed25519 key of that host."""
        host = self.host_of_static(static)
        return self.hosts[host].ed25519 if host is not None else None

    def host_of_short(self, short: ShortId) -> HostId | None:
        return self._by_short.get(short)

    def flood_children(self, origin: ShortId) -> list[HostId] | None:
        """To whom this host passes a flood of this origin; None: no record names such a host."""
        if self.host_of_short(origin) is None:
            return None
        children = self.topology.children(origin)
        return [host for child in children if (host := self.host_of_short(child)) is not None]

    # ── names for people

    def label_of(self, host: HostId) -> str:
        """`7a:0f:…(host2)`; the beginning of its id where no record names it yet."""
        record = self.hosts.get(host)
        return peer_label(format_mac(record.name), record.nickname) if record else format_mac(host_name(host))

    def attachment_label(self, host: HostId, attachment_id: str) -> str:
        value = self.attachments.get((host, attachment_id))
        return value.label if value is not None else attachment_id[:12]

    def address_holder(self, address: str, not_of: str) -> str | None:
        """Who else than this host's attachment `not_of` holds the address (a CIDR), as a text; None: it is free."""
        holder = self.addresses.taken(SegmentId(0), ipaddress.ip_interface(address).ip, self._self, not_of)
        if holder is None:
            return None
        where = "this host" if holder.host == self._self else self.label_of(holder.host)
        return f"container {self.attachment_label(holder.host, holder.label)} on {where}"

    # ── changes

    def apply(self, change: Changed, now: float) -> Applied:
        origin, key = change.origin, change.key
        if origin == self._self and key not in _OWN:
            return Applied()
        value = self._decode(key, change.new)
        if key == HOST_KEY:
            return self._host(origin, value if isinstance(value, HostValue) else None)
        if key == LINKS_KEY:
            links = value if isinstance(value, LinksValue) else None
            return Applied(topology=self.topology.set_links(short_id(origin), links))
        if key == _GROUPS:
            groups = value if isinstance(value, GroupsValue) else None
            wanted = Wanted(everything=groups.everything, groups=frozenset(groups.groups)) if groups else None
            return Applied(groups=self.groups.set_wanted(origin, wanted))
        old = self._claimed.pop((origin, key), None)
        new = value if isinstance(value, _Claim) else None
        if new is not None:
            self._claimed[origin, key] = new
        return Applied(owners=self._claims(origin, old, new, now)) if old is not new else Applied()

    def _decode(self, key: bytes, value: bytes | None) -> Value | None:
        if value is None:
            return None
        try:
            return decode_value(key, value)
        except DecodeError:
            self._drops.add(DropReason.BAD_RECORD)
            return None

    def _host(self, host: HostId, value: HostValue | None) -> Applied:
        before = self.hosts.pop(host, None)
        if before is None and value is None:
            return Applied()
        if before is not None:
            holders = self._by_static[before.x25519]
            holders.discard(host)
            if not holders:
                del self._by_static[before.x25519]
        if value is None:
            self._by_short.pop(short_id(host), None)
        else:
            self.hosts[host] = value
            self._by_static.setdefault(value.x25519, set()).add(host)
            self._by_short[short_id(host)] = host
        # edges name hosts by short ids, which mean nothing before and after
        return Applied(host=host, topology=before is None or value is None)

    def _claims(self, host: HostId, old: _Claim | None, new: _Claim | None, now: float) -> tuple[Mac, ...]:
        if isinstance(old, AttachmentValue):
            self.attachments.pop((host, old.container_id), None)
        if isinstance(new, AttachmentValue):
            self.attachments[host, new.container_id] = new
        touched = tuple(dict.fromkeys((*_macs(old), *_macs(new))))
        before = [self.fdb.holds(segment, mac) for segment, mac in touched]
        self.set_claims(host, old, new, now)
        after = [self.fdb.holds(segment, mac) for segment, mac in touched]
        return tuple(mac for (_, mac), was, now_is in zip(touched, before, after, strict=True) if was != now_is)

    def set_claims(self, host: HostId, old: _Claim | None, new: _Claim | None, now: float) -> None:
        """What `new` claims is set before what only `old` claimed goes: a MAC that stays must not seem to move."""
        if isinstance(new, AttachmentValue):
            self._set_attachment(host, new, now)
        elif isinstance(new, LearnedValue):
            self.fdb.set_claim(host, new.segment, new.mac, new.claim, ClaimKind.LEARNED, "", now)
        if isinstance(old, AttachmentValue):
            self._drop_attachment(host, old, new if isinstance(new, AttachmentValue) else None, now)
        elif isinstance(old, LearnedValue) and not (isinstance(new, LearnedValue) and new.segment == old.segment):
            self.fdb.drop_claim(host, old.segment, old.mac, now, kind=ClaimKind.LEARNED)

    def _set_attachment(self, host: HostId, value: AttachmentValue, now: float) -> None:
        for mac in value.macs:
            self.fdb.set_claim(host, value.segment, mac, value.claim, ClaimKind.ATTACHMENT, value.container_id, now)
        answering = value.macs[0] if value.macs else Mac(bytes(6))
        for cidr in value.addresses:
            interface = ipaddress.ip_interface(cidr)
            length = interface.network.prefixlen
            self.addresses.set_holder(host, value.segment, interface.ip, value.container_id, answering, length)

    def _drop_attachment(self, host: HostId, old: AttachmentValue, new: AttachmentValue | None, now: float) -> None:
        if new is not None and new.segment != old.segment:
            new = None  # what it claims now is claimed elsewhere: nothing of the old stays
        for mac in old.macs:
            if new is None or mac not in new.macs:
                self.fdb.drop_claim(host, old.segment, mac, now, kind=ClaimKind.ATTACHMENT, label=old.container_id)
        kept = {ipaddress.ip_interface(cidr).ip for cidr in new.addresses} if new is not None else set()
        for cidr in old.addresses:
            ip = ipaddress.ip_interface(cidr).ip
            if ip not in kept:
                self.addresses.drop_holder(host, old.segment, ip, old.container_id)


def _macs(value: _Claim | None) -> tuple[tuple[SegmentId, Mac], ...]:
    match value:
        case AttachmentValue():
            return tuple((value.segment, mac) for mac in value.macs)
        case LearnedValue():
            return ((value.segment, value.mac),)
    return ()
