"""What records say: the typed values of each kind, and their layouts.

A value is a msgpack map with small integer keys; the first byte of a record's key names its kind. Field numbers and kinds are
append only. Unknown kinds and unknown fields are kept and relayed as they are: the store never looks inside a value, and
`decode_value` answers `Opaque` for a kind of a later version.

    kind  key                 fields
    h     "h"                 1 nickname, 2 name 6 B, 3 Ed25519 32 B, 4 X25519 32 B, 5 ["ip:port", …], 6 port, 7 capability bits,
                              8 version, 9 lowest and 10 highest protocol version, 11 MTU
    l     "l"                 1 [[short id 8 B, cost class 0–3], …]
    a     "a" + BLAKE2s-16    1 container id, 2 label, 3 [MAC, …], 4 ["ip/len", …], 5 [name, …], 6 segment, 7 claim number
          of the container id
    m     "m" + MAC           1 segment, 2 claim number
    g     "g" + segment u16   1 flags (bit 0: everything), 2 [group address 4 or 16 B, …]
    f     "f"                 the floor of the log, see `records`
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from hashlib import blake2s

from meshd.errors import DecodeError, LocalProtocolError
from meshd.gossip.codec import pack, take_bytes, take_int, take_map, take_text, take_tuple, unpack
from meshd.gossip.records import MAX_VALUE
from meshd.ids import SHORT_ID_SIZE, Endpoint, Mac, SegmentId, ShortId, is_multicast, parse_endpoint

__all__ = [
    "HOST_KEY",
    "LINKS_KEY",
    "MAX_ENDPOINTS",
    "MAX_NEIGHBOURS",
    "AttachmentValue",
    "GroupsValue",
    "HostValue",
    "LearnedValue",
    "LinksValue",
    "Opaque",
    "Value",
    "attachment_key",
    "decode_value",
    "encode_value",
    "groups_key",
    "learned_key",
]

HOST_KEY = b"h"
LINKS_KEY = b"l"
_ATTACHMENT = b"a"
_LEARNED = b"m"
_GROUPS = b"g"

MAX_ENDPOINTS = 16
MAX_NEIGHBOURS = 256  # of a hub; see `node.edges`
MAX_MACS = 16
MAX_ADDRESSES = 64
MAX_NAMES = 64
MAX_NAME = 255
MAX_GROUPS = 256
MAX_TEXT = 64
MAX_ID = 128
COST_CLASSES = 4
MAX_CLAIM = 0xFFFF_FFFF  # as the MAC table counts


@dataclass(slots=True, frozen=True, kw_only=True)
class HostValue:
    nickname: str
    name: Mac
    ed25519: bytes
    x25519: bytes
    endpoints: tuple[Endpoint, ...]
    port: int
    capabilities: int
    version: str
    protocol_min: int
    protocol_max: int
    mtu: int


@dataclass(slots=True, frozen=True, kw_only=True)
class LinksValue:
    neighbours: tuple[tuple[ShortId, int], ...]


@dataclass(slots=True, frozen=True, kw_only=True)
class AttachmentValue:
    container_id: str
    label: str
    macs: tuple[Mac, ...]
    addresses: tuple[str, ...]  # CIDRs, the host's own address kept: "10.1.0.7/24"
    names: tuple[str, ...]
    segment: SegmentId
    claim: int


@dataclass(slots=True, frozen=True, kw_only=True)
class LearnedValue:
    mac: Mac
    segment: SegmentId
    claim: int


@dataclass(slots=True, frozen=True, kw_only=True)
class GroupsValue:
    """What of multicast a host wants: everything, or these groups. Addresses in ascending order."""

    segment: SegmentId
    everything: bool
    groups: tuple[bytes, ...]


@dataclass(slots=True, frozen=True, kw_only=True)
class Opaque:
    """A kind that this version does not know."""

    kind: int


Value = HostValue | LinksValue | AttachmentValue | LearnedValue | GroupsValue | Opaque


def attachment_key(container_id: str) -> bytes:
    """Hashed, since a Docker id (64 digits) and a namespace's name may be longer than a key."""
    return _ATTACHMENT + blake2s(container_id.encode(), digest_size=16).digest()


def learned_key(mac: Mac) -> bytes:
    return _LEARNED + mac


def groups_key(segment: SegmentId) -> bytes:
    return _GROUPS + segment.to_bytes(2, "little")


def _fields(value: Value) -> dict[int, object]:
    match value:
        case HostValue():
            return {
                1: value.nickname,
                2: value.name,
                3: value.ed25519,
                4: value.x25519,
                5: tuple(str(endpoint) for endpoint in value.endpoints),
                6: value.port,
                7: value.capabilities,
                8: value.version,
                9: value.protocol_min,
                10: value.protocol_max,
                11: value.mtu,
            }
        case LinksValue():
            return {1: value.neighbours}
        case AttachmentValue():
            return {
                1: value.container_id,
                2: value.label,
                3: value.macs,
                4: value.addresses,
                5: value.names,
                6: value.segment,
                7: value.claim,
            }
        case LearnedValue():
            return {1: value.segment, 2: value.claim}
        case GroupsValue():
            return {1: int(value.everything), 2: value.groups}
        case Opaque():
            raise LocalProtocolError("a value of an unknown kind is only passed on")


def encode_value(value: Value) -> bytes:
    """Raises LocalProtocolError for what no receiver would take."""
    encoded = pack(_fields(value))
    if len(encoded) > MAX_VALUE:
        raise LocalProtocolError(f"a record value of {len(encoded)} bytes")
    return encoded


def _endpoint(value: object) -> Endpoint:
    try:
        return parse_endpoint(take_text(value, MAX_TEXT))
    except ValueError:
        raise DecodeError("not an endpoint") from None


def _mac(value: object) -> Mac:
    mac = take_bytes(value, 6, 6)
    if is_multicast(mac):
        raise DecodeError("a group address is nobody's MAC")
    return Mac(mac)


def _cidr(value: object) -> str:
    try:
        return str(ipaddress.ip_interface(take_text(value, MAX_TEXT)))
    except ValueError:
        raise DecodeError("not an address with prefix length") from None


def _segment(value: object) -> SegmentId:
    return SegmentId(take_int(value, 0, 0xFFFF))


def _neighbour(value: object) -> tuple[ShortId, int]:
    pair = take_tuple(value, 2, 2)
    return ShortId(take_bytes(pair[0], SHORT_ID_SIZE, SHORT_ID_SIZE)), take_int(pair[1], 0, COST_CLASSES - 1)


def _host(fields: dict[int, object]) -> HostValue:
    low = take_int(fields.get(9), 1, 255)
    return HostValue(
        nickname=take_text(fields.get(1), MAX_TEXT),
        name=Mac(take_bytes(fields.get(2), 6, 6)),
        ed25519=take_bytes(fields.get(3), 32, 32),
        x25519=take_bytes(fields.get(4), 32, 32),
        endpoints=tuple(_endpoint(item) for item in take_tuple(fields.get(5), MAX_ENDPOINTS)),
        port=take_int(fields.get(6), 1, 0xFFFF),
        capabilities=take_int(fields.get(7)),
        version=take_text(fields.get(8), MAX_TEXT),
        protocol_min=low,
        protocol_max=take_int(fields.get(10), low, 255),
        mtu=take_int(fields.get(11), 0, 0xFFFF),
    )


def _links(fields: dict[int, object]) -> LinksValue:
    neighbours = tuple(_neighbour(item) for item in take_tuple(fields.get(1), MAX_NEIGHBOURS))
    if len({neighbour for neighbour, _ in neighbours}) != len(neighbours):
        raise DecodeError("a neighbour is listed twice")
    return LinksValue(neighbours=neighbours)


def _attachment(key: bytes, fields: dict[int, object]) -> AttachmentValue:
    container_id = take_text(fields.get(1), MAX_ID)
    if attachment_key(container_id) != key:
        raise DecodeError("an attachment under another's key")
    return AttachmentValue(
        container_id=container_id,
        label=take_text(fields.get(2), MAX_TEXT),
        macs=tuple(_mac(item) for item in take_tuple(fields.get(3), MAX_MACS)),
        addresses=tuple(_cidr(item) for item in take_tuple(fields.get(4), MAX_ADDRESSES)),
        names=tuple(take_text(item, MAX_NAME) for item in take_tuple(fields.get(5), MAX_NAMES)),
        segment=_segment(fields.get(6)),
        claim=take_int(fields.get(7), 0, MAX_CLAIM),
    )


def _groups(key: bytes, fields: dict[int, object]) -> GroupsValue:
    groups = tuple(take_bytes(item, 4, 16) for item in take_tuple(fields.get(2), MAX_GROUPS))
    for group in groups:
        if not (len(group) == 4 and 0xE0 <= group[0] < 0xF0) and not (len(group) == 16 and group[0] == 0xFF):
            raise DecodeError("not the address of a group")
    return GroupsValue(
        segment=SegmentId(int.from_bytes(key[1:], "little")),
        everything=bool(take_int(fields.get(1)) & 1),
        groups=groups,
    )


def decode_value(key: bytes, value: bytes) -> Value:
    """The value under a record's key. Raises DecodeError; the record itself is still a good one to pass on."""
    kind = key[:1]
    if kind not in (HOST_KEY, LINKS_KEY, _ATTACHMENT, _LEARNED, _GROUPS):
        return Opaque(kind=key[0] if key else 0)
    fields = take_map(unpack(value, max_bytes=MAX_VALUE))
    if key == HOST_KEY:
        return _host(fields)
    if key == LINKS_KEY:
        return _links(fields)
    if kind == _ATTACHMENT:
        return _attachment(key, fields)
    if kind == _LEARNED:
        return LearnedValue(
            mac=_mac(key[1:]), segment=_segment(fields.get(1)), claim=take_int(fields.get(2), 0, MAX_CLAIM)
        )
    if kind == _GROUPS and len(key) == 3:
        return _groups(key, fields)
    raise DecodeError("a key of a known kind with something after it")
