"""What this host says of itself: its host record, its links, its attachments, the MACs that it sees.

The claims are in the tables as soon as they are made, before the record is signed: the first frame of a container must find its MAC
known. A MAC that is captured here while another host's claim holds has moved, and its claim is raised (see `forward.fdb`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from random import Random

from meshd.config import NodeConfig
from meshd.crypto.identity import Identity
from meshd.errors import DecodeError, LocalProtocolError, UserError
from meshd.forward.claims import MacKey
from meshd.forward.groups import Wanted
from meshd.gossip.gossip import Gossip
from meshd.gossip.values import (
    HOST_KEY,
    LINKS_KEY,
    MAX_ENDPOINTS,
    MAX_TEXT,
    AttachmentValue,
    GroupsValue,
    HostValue,
    LearnedValue,
    LinksValue,
    attachment_key,
    decode_value,
    encode_value,
    groups_key,
    learned_key,
)
from meshd.ids import Endpoint, HostId, Mac, SegmentId, short_id
from meshd.node.directory import Directory
from meshd.node.edges import Edges

__all__ = ["PROTOCOL_VERSION", "OwnRecords"]

PROTOCOL_VERSION = 1
MAX_OBSERVED = 4  # addresses at which neighbours see us
SEGMENT = SegmentId(0)  # the only one today


class OwnRecords:
    """Writes this host's log. Every call that changes a MAC's owner returns the MACs whose flows are void."""

    def __init__(
        self, *, config: NodeConfig, identity: Identity, gossip: Gossip, directory: Directory, rng: Random
    ) -> None:
        self._config = config
        self._identity = identity
        self._self = identity.host_id
        self._gossip = gossip
        self._directory = directory
        self._observed: dict[HostId, str] = {}
        self._attachments: dict[str, AttachmentValue] = {}
        self._learned: dict[MacKey, LearnedValue] = {}
        self._links: LinksValue | None = None
        self.edges = Edges(directory.topology, rng)

    # ── who we are

    def publish_host(self, now: float) -> None:
        config = self._config
        value = HostValue(
            nickname=config.nickname,
            name=config.name,
            ed25519=self._identity.ed25519_public,
            x25519=self._identity.x25519_public,
            endpoints=self._endpoints(),
            port=config.port,
            capabilities=0,
            version=config.version,
            protocol_min=PROTOCOL_VERSION,
            protocol_max=PROTOCOL_VERSION,
            mtu=config.mtu,
        )
        self._gossip.put(HOST_KEY, encode_value(value), now)

    def _endpoints(self) -> tuple[Endpoint, ...]:
        """What the user says, then where others saw us: such an address has worked for somebody."""
        seen = self._observed.values()
        latest = list(dict.fromkeys(reversed(seen)))[:MAX_OBSERVED]  # different ones: most neighbours may see the same
        found = (*(address for address in dict.fromkeys(seen) if address in latest), *self._config.endpoints)
        endpoints = (*self._config.advertise, *(Endpoint(address, self._config.port) for address in found))
        return tuple(dict.fromkeys(endpoints))[:MAX_ENDPOINTS]

    def seen_at(self, neighbour: HostId, address: str, now: float) -> None:
        """A neighbour tells at which address it sees us."""
        if "%" in address:
            return  # link-local: it means something on that link alone
        if address and self._observed.get(neighbour) != address:
            before = self._endpoints()
            self._observed.pop(neighbour, None)
            self._observed[neighbour] = address
            while len(self._observed) > 4 * MAX_OBSERVED:
                del self._observed[next(iter(self._observed))]
            if self._endpoints() != before:
                self.publish_host(now)

    def publish_links(self, alive: Mapping[HostId, int], now: float) -> None:
        """The neighbours whose data path lives both ways; where there are many, those that the mesh needs."""
        chosen = self.edges.choose(alive, now).items()
        value = LinksValue(neighbours=tuple(sorted((short_id(host), cost) for host, cost in chosen)))
        if value != self._links:
            self._links = value
            self._gossip.put(LINKS_KEY, encode_value(value), now)

    # ── what is attached here

    @property
    def attachments(self) -> Mapping[str, AttachmentValue]:
        return self._attachments

    def attach(
        self, attachment_id: str, label: str, mac: Mac, addresses: tuple[str, ...], now: float
    ) -> Collection[Mac]:
        """Announce an attachment, or its change.

        Raises UserError when this host announces too much already, or for what no other host would take.
        """
        value = AttachmentValue(
            container_id=attachment_id,
            label=_shown(label),
            macs=(mac,),
            addresses=addresses,
            names=(),
            segment=SEGMENT,
            claim=self._directory.fdb.next_number(SEGMENT, mac),
        )
        _check(value)
        changed = self._put_attachment(value, now)
        return {*self._unlearn(MacKey(SEGMENT, mac), now), *changed}

    def detach(self, attachment_id: str, now: float) -> Collection[Mac]:
        value = self._attachments.pop(attachment_id, None)
        if value is None:
            return ()
        self._directory.attachments.pop((self._self, attachment_id), None)
        self._gossip.delete(attachment_key(attachment_id), now)
        self._directory.set_claims(self._self, value, None, now)
        return value.macs

    def _put_attachment(self, value: AttachmentValue, now: float) -> Collection[Mac]:
        self._gossip.put(attachment_key(value.container_id), encode_value(value), now)
        before = self._attachments.get(value.container_id)
        self._attachments[value.container_id] = value
        self._directory.attachments[self._self, value.container_id] = value
        self._directory.set_claims(self._self, before, value, now)
        return {*value.macs, *(before.macs if before is not None else ())}

    # ── what is seen here

    def captured(self, segment: SegmentId, mac: Mac, now: float) -> Collection[Mac]:
        """A frame with this source came from the bridge: claim the MAC where that is news."""
        number = self._directory.fdb.local_sight(segment, mac, now)
        if number is None:
            return ()
        for value in self._attachments.values():
            if mac in value.macs and value.segment == segment:
                return self._put_attachment(replace(value, claim=number), now)
        learned = LearnedValue(mac=mac, segment=segment, claim=number)
        self._gossip.put(learned_key(mac), encode_value(learned), now)
        self._learned[MacKey(segment, mac)] = learned
        self._directory.set_claims(self._self, None, learned, now)
        return (mac,)

    @property
    def somebody(self) -> bool:
        """Whether anybody was attached or seen here."""
        return bool(self._attachments or self._learned)

    def publish_groups(self, wanted: Wanted, now: float) -> None:
        """What of multicast this host wants."""
        value = GroupsValue(segment=SEGMENT, everything=wanted.everything, groups=tuple(sorted(wanted.groups)))
        self._gossip.put(groups_key(SEGMENT), encode_value(value), now)

    def expire_learned(self, now: float) -> Collection[Mac]:
        """Withdraw what was not seen for long, or belongs to another host by now."""
        gone = self._directory.fdb.expire_learned(now)
        for key in gone:
            self._learned.pop(key, None)
            self._gossip.delete(learned_key(key.mac), now)
        return [key.mac for key in gone]

    def _unlearn(self, key: MacKey, now: float) -> Collection[Mac]:
        """An attachment now says what a learned claim said before."""
        learned = self._learned.pop(key, None)
        if learned is None:
            return ()
        self._gossip.delete(learned_key(key.mac), now)
        self._directory.set_claims(self._self, learned, None, now)
        return (key.mac,)


def _shown(label: str) -> str:
    """As much of a name as a record may carry."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in label)
    return printable.encode()[:MAX_TEXT].decode(errors="ignore")


def _check(value: AttachmentValue) -> None:
    """A record that the others throw away would leave the container without its MAC, and nobody would know why."""
    try:
        decode_value(attachment_key(value.container_id), encode_value(value))
    except (DecodeError, LocalProtocolError) as error:
        raise UserError(f"{value.label} cannot be announced to the mesh: {error}") from error
