"""Records, values and control-link messages on the wire: pinned bytes, round trips, and what is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.crypto.identity import Identity, verify_signature
from meshd.errors import DecodeError, LocalProtocolError
from meshd.gossip.codec import pack, unpack
from meshd.gossip.messages import (
    MAX_MESSAGE,
    DigestMessage,
    Hello,
    Leave,
    Message,
    Ping,
    Pong,
    Records,
    RekeyAnswer,
    RekeyDone,
    RekeyInit,
    Root,
    Unknown,
    Want,
    WantRow,
    decode_message,
    encode_message,
)
from meshd.gossip.records import (
    MAX_KEY,
    MAX_VALUE,
    Batch,
    Record,
    decode_batch,
    decode_floor,
    encode_batch,
    encode_floor,
    record_hash,
    sign_record,
    signed_message,
    verify_record,
)
from meshd.gossip.store import Digest
from meshd.gossip.values import (
    HOST_KEY,
    LINKS_KEY,
    AttachmentValue,
    GroupsValue,
    HostValue,
    LearnedValue,
    LinksValue,
    Opaque,
    Value,
    attachment_key,
    decode_value,
    encode_value,
    groups_key,
    learned_key,
)
from meshd.ids import Endpoint, Mac, SegmentId, ShortId

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "gossip.json").read_text())

IDENTITY = Identity(bytes(range(32)), bytes(range(32, 64)))
MESH = bytes(range(0x40, 0x50))
MAC = Mac(bytes.fromhex("4a0ff6ec1c93"))
LOW, HIGH = ShortId(bytes(8)), ShortId(b"\xff" * 8)

VALUES: dict[str, tuple[bytes, Value]] = {
    "host": (
        HOST_KEY,
        HostValue(
            nickname="host1",
            name=MAC,
            ed25519=IDENTITY.ed25519_public,
            x25519=IDENTITY.x25519_public,
            endpoints=(Endpoint("192.0.2.1", 6783), Endpoint("fd00::1", 7000)),
            port=6783,
            capabilities=0,
            version="0.1.0",
            protocol_min=1,
            protocol_max=1,
            mtu=1500,
        ),
    ),
    "links": (LINKS_KEY, LinksValue(neighbours=((ShortId(b"neighbor"), 0), (ShortId(b"another!"), 3)))),
    "attachment": (
        attachment_key("ab" * 32),
        AttachmentValue(
            container_id="ab" * 32,
            label="abababababab",
            macs=(MAC,),
            addresses=("10.32.0.7/12", "fd01::7/64"),
            names=("web.weave.local.",),
            segment=SegmentId(0),
            claim=3,
        ),
    ),
    "learned": (learned_key(MAC), LearnedValue(mac=MAC, segment=SegmentId(7), claim=1)),
    "groups": (
        groups_key(SegmentId(7)),
        GroupsValue(
            segment=SegmentId(7),
            everything=True,
            groups=(bytes([239, 1, 2, 3]), bytes.fromhex("ff050000000000000000000000010006")),
        ),
    ),
}
IN_BATCHES = ("host", "links", "attachment", "learned")  # of the pinned messages


def signed(seq: int, key: bytes, value: bytes | None, epoch: int = 5) -> Record:
    record = Record(IDENTITY.host_id, epoch, seq, key, value, b"")
    return sign_record(MESH, record, IDENTITY.sign)


def batch_of_all() -> Batch:
    values = [VALUES[name] for name in IN_BATCHES]
    records = [signed(n, key, encode_value(value)) for n, (key, value) in enumerate(values, 1)]
    records.append(signed(9, b"zz unknown kind", None))
    floor = signed(12, b"f", encode_floor(8))
    return Batch(IDENTITY.ed25519_public, 5, 0, True, floor, (*records, floor))


MESSAGES: dict[str, Message] = {
    "hello": Hello("192.0.2.7", (batch_of_all(),)),
    "records": Records((batch_of_all(), replace(batch_of_all(), floor=None, complete=False))),
    "root": Root(b"8 bytes!"),
    "digest": DigestMessage(
        LOW, HIGH, (Digest(ShortId(b"aaaaaaaa"), 1, 2, 3), Digest(ShortId(b"bbbbbbbb"), 4, 0, 1 << 63))
    ),
    "want": Want((WantRow(ShortId(b"aaaaaaaa"), 5, 17), WantRow(ShortId(b"bbbbbbbb"), 0, 0))),
    "ping": Ping(),
    "pong": Pong(),
    "rekey init": RekeyInit(bytes(148)),
    "rekey answer": RekeyAnswer(bytes(92)),
    "rekey done": RekeyDone(),
    "leave": Leave(),
}


# pinned bytes: what they are made of is in the file; they change only with a new label or a new message number


def test_pinned_record() -> None:
    pinned = VECTORS["record"]
    record = signed(1, *next((key, encode_value(value)) for key, value in VALUES.values()))
    assert signed_message(MESH, record).hex() == pinned["signed_message"]
    assert record.signature.hex() == pinned["signature"]
    assert record.origin.hex() == pinned["origin"]
    assert f"{record_hash(record):016x}" == pinned["hash"]


@pytest.mark.parametrize("name", VALUES)
def test_pinned_values(name: str) -> None:
    key, value = VALUES[name]
    assert VECTORS["values"][name] == {"key": key.hex(), "value": encode_value(value).hex()}


@pytest.mark.parametrize("name", MESSAGES)
def test_pinned_messages(name: str) -> None:
    assert encode_message(MESSAGES[name]).hex() == VECTORS["messages"][name]


# records


def test_a_record_verifies_and_no_other_does() -> None:
    record = signed(3, b"k", b"v")
    assert verify_record(MESH, record, IDENTITY.ed25519_public, verify_signature)
    for other in (
        record._replace(seq=4),
        record._replace(epoch=6),
        record._replace(key=b"kv", value=b""),
        record._replace(value=b""),
        record._replace(value=None),
        record._replace(value=b"v\x00"),
    ):
        assert not verify_record(MESH, other, IDENTITY.ed25519_public, verify_signature)
        assert record_hash(other) != record_hash(record)
    assert not verify_record(bytes(16), record, IDENTITY.ed25519_public, verify_signature)


def test_batches_round() -> None:
    batch = batch_of_all()
    assert decode_batch(unpack(pack(encode_batch(batch)), max_bytes=60_000)) == batch
    assert batch.origin == IDENTITY.host_id


ROW = (1, b"k", b"v", bytes(64))


@pytest.mark.parametrize(
    "bad",
    [
        (),
        (bytes(31), 1, 0, True, None, ()),
        (bytes(32), -1, 0, True, None, ()),
        (bytes(32), 1 << 64, 0, True, None, ()),
        (bytes(32), 1, "0", True, None, ()),
        (bytes(32), 1, 0, 1, None, ()),
        (bytes(32), 1, 0, True, (), ()),
        (bytes(32), 1, 0, True, None, None),
        (bytes(32), 1, 0, True, None, (ROW[:3],)),
        (bytes(32), 1, 0, True, None, ((0, *ROW[1:]),)),
        (bytes(32), 1, 0, True, None, ((1, b"", *ROW[2:]),)),
        (bytes(32), 1, 0, True, None, ((1, bytes(MAX_KEY + 1), *ROW[2:]),)),
        (bytes(32), 1, 0, True, None, ((1, b"k", bytes(MAX_VALUE + 1), bytes(64)),)),
        (bytes(32), 1, 0, True, None, ((1, b"k", "text", bytes(64)),)),
        (bytes(32), 1, 0, True, None, ((1, b"k", b"v", bytes(63)),)),
        (bytes(32), 1, 0, True, None, (ROW, ROW)),  # not ascending
        (bytes(32), 1, 1, True, None, (ROW,)),  # before the start of its range
    ],
)
def test_batches_refused(bad: tuple[object, ...]) -> None:
    with pytest.raises(DecodeError):
        decode_batch(bad)


@pytest.mark.parametrize("bad", [None, b"", pack({}), pack({1: -1}), pack({1: b""}), pack([1])])
def test_floors_refused(bad: bytes | None) -> None:
    with pytest.raises(DecodeError):
        decode_floor(bad)


# values


@pytest.mark.parametrize("name", VALUES)
def test_values_round(name: str) -> None:
    key, value = VALUES[name]
    assert decode_value(key, encode_value(value)) == value


@pytest.mark.parametrize("name", VALUES)
def test_fields_of_a_later_version_are_passed_over_and_missing_ones_refused(name: str) -> None:
    key, value = VALUES[name]
    fields = unpack(encode_value(value), max_bytes=MAX_VALUE)
    assert decode_value(key, pack({**fields, 99: ("new", {1: 2})})) == value
    for field in fields:
        with pytest.raises(DecodeError):
            decode_value(key, pack({k: v for k, v in fields.items() if k != field}))
        for wrong in (None, True, -1, 1.5, "x" * 300, bytes(300), (None,), {1: 1}):
            with pytest.raises(DecodeError):
                decode_value(key, pack({**fields, field: wrong}))


def test_kinds_of_a_later_version_are_opaque() -> None:
    assert decode_value(b"r1", b"anything") == Opaque(kind=ord("r"))
    with pytest.raises(LocalProtocolError):
        encode_value(Opaque(kind=1))


@pytest.mark.parametrize(
    ("name", "field", "wrong"),
    [
        ("host", 5, ("host2:6783",)),
        ("host", 5, ("192.0.2.1:6783",) * 17),
        ("host", 10, 0),  # highest version below the lowest
        ("host", 1, "two\nlines"),
        ("links", 1, ((b"neighbor", 4),)),
        ("links", 1, ((b"neighbor", 0), (b"neighbor", 1))),
        ("links", 1, tuple((n.to_bytes(8, "big"), 0) for n in range(257))),
        ("attachment", 1, "another container"),
        ("attachment", 3, (b"\x01\x00\x5e\x00\x00\x01",)),
        ("attachment", 4, ("10.0.0.256/8",)),
        ("attachment", 6, 0x10000),
        ("attachment", 7, 1 << 32),  # a claim that no MAC table can hold
        ("learned", 2, 1 << 32),
        ("groups", 2, (bytes([10, 1, 2, 3]),)),
        ("groups", 2, (bytes([0xFF]) * 4,)),
        ("groups", 2, (bytes([0xFF]) * 15,)),
        ("groups", 2, (bytes([239, 1, 2, 3]),) * 257),
    ],
)
def test_values_refused(name: str, field: int, wrong: object) -> None:
    key, value = VALUES[name]
    with pytest.raises(DecodeError):
        decode_value(key, pack({**unpack(encode_value(value), max_bytes=MAX_VALUE), field: wrong}))


@pytest.mark.parametrize("key", [HOST_KEY + b"x", LINKS_KEY + b"x", b"m", b"m" + bytes(5), b"m\x01" + bytes(5), b"a"])
def test_keys_refused(key: bytes) -> None:
    for _, value in VALUES.values():
        with pytest.raises(DecodeError):
            decode_value(key, encode_value(value))


def test_what_no_receiver_takes_is_not_encoded() -> None:
    value = VALUES["attachment"][1]
    assert isinstance(value, AttachmentValue)
    with pytest.raises(LocalProtocolError):
        encode_value(replace(value, names=("n" * 255,) * 80))


# messages


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_round(name: str) -> None:
    message = MESSAGES[name]
    data = encode_message(message)
    assert decode_message(data) == message
    later = pack((*unpack(data, max_bytes=MAX_MESSAGE), "of a later version"))
    assert decode_message(later) == message
    with pytest.raises(DecodeError):
        decode_message(data + b"\x00")
    for end in range(0, len(data), 1 + len(data) // 200):
        with pytest.raises(DecodeError):
            decode_message(data[:end])


def test_unknown_numbers() -> None:
    assert decode_message(pack((77, b"whatever"))) == Unknown(77)
    with pytest.raises(LocalProtocolError):
        encode_message(Unknown(77))


@pytest.mark.parametrize(
    "bad",
    [
        (),
        (-1,),
        ("1",),
        (1, "ip"),
        (1, 5, ()),
        (1, "host2", ()),  # would make the receiver's own host record unreadable
        (1, "192.0.2.1:6783", ()),
        (2, (1,)),
        (3, b"short"),
        (4, HIGH, LOW, ((b"aaaaaaaa", 1, 1, bytes(8)),)),
        (4, LOW, HIGH, ((b"bbbbbbbb", 1, 1, bytes(8)), (b"aaaaaaaa", 1, 1, bytes(8)))),
        (4, LOW, HIGH, ((b"aaaaaaaa", 1, 1, 3),)),
        (5, b"aaaaaaaa"),
        (5, ((b"aaaaaaaa", 1),)),
        (5, ((b"aaaaaaaa", 1, -1),)),
        (5, ((b"aaaaaaaa", 1, 1),) * 257),
        (8, b""),
        (9, bytes(513)),
    ],
)
def test_messages_refused(bad: tuple[object, ...]) -> None:
    with pytest.raises(DecodeError):
        decode_message(pack(bad))


def test_no_message_is_larger_than_a_frame_takes() -> None:
    batch = Batch(bytes(32), 1, 0, True, None, tuple(signed(n, b"k%d" % n, bytes(16_000)) for n in range(1, 5)))
    with pytest.raises(LocalProtocolError):
        encode_message(Records((batch,)))


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    only_decode_errors(lambda: decode_message(data))
    for key in (HOST_KEY, LINKS_KEY, b"a" + bytes(16), b"m" + bytes(6)):
        only_decode_errors(lambda key=key: decode_value(key, data))  # type: ignore[misc]


def test_changed_bytes() -> None:
    """One to three bytes of every message changed: it decodes to something whose encoding is stable, or is refused."""
    rng = Random(7)
    for message in MESSAGES.values():
        data = encode_message(message)
        for _ in range(400):
            changed = bytearray(data)
            for _ in range(rng.randrange(1, 4)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            only_decode_errors(lambda changed=changed: fix_point(bytes(changed)))  # type: ignore[misc]


def fix_point(data: bytes) -> None:
    message = decode_message(data)
    if not isinstance(message, Unknown):
        assert decode_message(encode_message(message)) == message


def only_decode_errors(call: Callable[[], object]) -> None:
    with contextlib.suppress(DecodeError):
        call()
