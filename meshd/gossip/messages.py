"""Control-link messages: what two authenticated neighbours say to each other, one msgpack array in each sealed frame.

    1  HELLO         [1, observed, batches]      first on a link; "I see you as this address"; the sender's own log
    2  RECORDS       [2, batches]                deltas, see `records`
    3  ROOT          [3, root hash 8]            "this is what I hold"; answered by DIGEST unless equal
    4  DIGEST        [4, low, high, rows]        all logs held with low <= short id <= high: [short id 8, epoch, known, set hash 8]
    5  WANT          [5, [[short id 8, epoch, start], …]]   "send me these origins' records beyond start"
    6  PING          [6]                         keepalive, answered by
    7  PONG          [7]
    8  REKEY_INIT    [8, handshake type 1]       new keys for this link, see `link`
    9  REKEY_ANSWER  [9, handshake type 2]
    10 REKEY_DONE    [10]
    11 LEAVE         [11]                        "I am going": the link's end is no fault

Numbers are append only. A later version may append fields to an array; they are ignored here. A number not in the list decodes to
`Unknown`, which is counted and passed over. A message has at most 60 000 bytes, so that a frame (65 535 with its tag) holds it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshd.errors import DecodeError, LocalProtocolError
from meshd.gossip.codec import MAX_ARRAY, pack, take_bytes, take_int, take_text, take_tuple, unpack
from meshd.gossip.records import Batch, decode_batch, encode_batch
from meshd.gossip.store import Digest
from meshd.ids import SHORT_ID_SIZE, ShortId

__all__ = [
    "HASH_SIZE",
    "MAX_DIGEST_ROWS",
    "MAX_MESSAGE",
    "MAX_WANT_ROWS",
    "DigestMessage",
    "Hello",
    "Leave",
    "Message",
    "Ping",
    "Pong",
    "Records",
    "RekeyAnswer",
    "RekeyDone",
    "RekeyInit",
    "Root",
    "Unknown",
    "Want",
    "WantRow",
    "decode_message",
    "encode_message",
]

MAX_MESSAGE = 60_000
MAX_BATCHES = MAX_ARRAY
MAX_DIGEST_ROWS = MAX_ARRAY
MAX_WANT_ROWS = MAX_ARRAY
MAX_ADDRESS = 64
MAX_HANDSHAKE = 512
HASH_SIZE = 8


@dataclass(slots=True, frozen=True)
class Hello:
    observed: str  # the other end's IP address as this end sees it; "" where it is not known
    batches: tuple[Batch, ...]


@dataclass(slots=True, frozen=True)
class Records:
    batches: tuple[Batch, ...]


@dataclass(slots=True, frozen=True)
class Root:
    root_hash: bytes


@dataclass(slots=True, frozen=True)
class DigestMessage:
    low: ShortId
    high: ShortId
    rows: tuple[Digest, ...]


@dataclass(slots=True, frozen=True)
class WantRow:
    short: ShortId
    epoch: int
    start: int


@dataclass(slots=True, frozen=True)
class Want:
    rows: tuple[WantRow, ...]


@dataclass(slots=True, frozen=True)
class Ping:
    pass


@dataclass(slots=True, frozen=True)
class Pong:
    pass


@dataclass(slots=True, frozen=True)
class RekeyInit:
    handshake: bytes


@dataclass(slots=True, frozen=True)
class RekeyAnswer:
    handshake: bytes


@dataclass(slots=True, frozen=True)
class RekeyDone:
    pass


@dataclass(slots=True, frozen=True)
class Leave:
    pass


@dataclass(slots=True, frozen=True)
class Unknown:
    number: int


Message = (
    Hello | Records | Root | DigestMessage | Want | Ping | Pong | RekeyInit | RekeyAnswer | RekeyDone | Leave | Unknown
)
_Fields = tuple[Any, ...]


def _pack_batches(batches: tuple[Batch, ...]) -> tuple[object, ...]:
    return tuple(encode_batch(batch) for batch in batches)


def _take_batches(value: object) -> tuple[Batch, ...]:
    return tuple(decode_batch(item) for item in take_tuple(value, MAX_BATCHES))


def _take_short(value: object) -> ShortId:
    return ShortId(take_bytes(value, SHORT_ID_SIZE, SHORT_ID_SIZE))


def _take_observed(value: object) -> str:
    """An address or nothing: it goes into the receiver's own host record, which no host could read with anything else in it."""
    text = take_text(value, MAX_ADDRESS)
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise DecodeError("not an address") from None


def _pack_digest(message: DigestMessage) -> tuple[object, ...]:
    rows = tuple((row.short, row.epoch, row.known, row.set_hash.to_bytes(HASH_SIZE, "little")) for row in message.rows)
    return (message.low, message.high, rows)


def _take_digest(fields: _Fields) -> DigestMessage:
    low, high = _take_short(fields[0]), _take_short(fields[1])
    rows = []
    last = b""
    for item in take_tuple(fields[2], MAX_DIGEST_ROWS):
        row = take_tuple(item, MAX_ARRAY, 4)
        short = _take_short(row[0])
        if not low <= short <= high or short <= last:
            raise DecodeError("digest rows do not ascend within their range")
        last = short
        set_hash = int.from_bytes(take_bytes(row[3], HASH_SIZE, HASH_SIZE), "little")
        rows.append(Digest(short, take_int(row[1]), take_int(row[2]), set_hash))
    return DigestMessage(low, high, tuple(rows))


def _take_want(fields: _Fields) -> Want:
    rows = (take_tuple(row, MAX_ARRAY, 3) for row in take_tuple(fields[0], MAX_WANT_ROWS))
    return Want(tuple(WantRow(_take_short(row[0]), take_int(row[1]), take_int(row[2])) for row in rows))


# number, type, fields needed, fields -> message, message -> fields. APPEND ONLY.
_Decode = Callable[[_Fields], Message]
_Encode = Callable[[Any], tuple[object, ...]]
_TABLE: tuple[tuple[int, type[Any], int, _Decode, _Encode], ...] = (
    (
        1,
        Hello,
        2,
        lambda f: Hello(_take_observed(f[0]), _take_batches(f[1])),
        lambda m: (m.observed, _pack_batches(m.batches)),
    ),
    (2, Records, 1, lambda f: Records(_take_batches(f[0])), lambda m: (_pack_batches(m.batches),)),
    (3, Root, 1, lambda f: Root(take_bytes(f[0], HASH_SIZE, HASH_SIZE)), lambda m: (m.root_hash,)),
    (4, DigestMessage, 3, _take_digest, _pack_digest),
    (5, Want, 1, _take_want, lambda m: (tuple((row.short, row.epoch, row.start) for row in m.rows),)),
    (6, Ping, 0, lambda _: Ping(), lambda _: ()),
    (7, Pong, 0, lambda _: Pong(), lambda _: ()),
    (8, RekeyInit, 1, lambda f: RekeyInit(take_bytes(f[0], 1, MAX_HANDSHAKE)), lambda m: (m.handshake,)),
    (9, RekeyAnswer, 1, lambda f: RekeyAnswer(take_bytes(f[0], 1, MAX_HANDSHAKE)), lambda m: (m.handshake,)),
    (10, RekeyDone, 0, lambda _: RekeyDone(), lambda _: ()),
    (11, Leave, 0, lambda _: Leave(), lambda _: ()),
)
_DECODERS = {number: (needed, decode) for number, _, needed, decode, _ in _TABLE}
_ENCODERS = {kind: (number, encode) for number, kind, _, _, encode in _TABLE}


def encode_message(message: Message) -> bytes:
    """Raises LocalProtocolError for a message over MAX_MESSAGE bytes."""
    if isinstance(message, Unknown):
        raise LocalProtocolError("an unknown message is not sent on")
    number, encode = _ENCODERS[type(message)]
    data = pack((number, *encode(message)))
    if len(data) > MAX_MESSAGE:
        raise LocalProtocolError(f"a message of {len(data)} bytes")
    return data


def decode_message(data: bytes) -> Message:
    """Raises DecodeError; the link it came by is still usable."""
    fields = take_tuple(unpack(data, max_bytes=MAX_MESSAGE), MAX_ARRAY, 1)
    number = take_int(fields[0])
    entry = _DECODERS.get(number)
    if entry is None:
        return Unknown(number)
    needed, decode = entry
    if len(fields) - 1 < needed:
        raise DecodeError(f"message {number} has {len(fields) - 1} fields, needs {needed}")
    return decode(fields[1:])
