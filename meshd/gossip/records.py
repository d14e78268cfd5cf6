"""Records: the signed facts that hosts gossip, and the batches in which they travel.

A record is (origin, epoch, sequence, key, value or tombstone, signature). The signature covers

    "meshd record v1" | mesh id 16 | origin 16 | epoch u64 LE | sequence u64 LE | key length u8 | key | 0 (tombstone) or 1 | value

and is the origin's Ed25519. The origin is the first 16 bytes of BLAKE2s of its public key, so whoever shows the key proves the
origin: a batch carries the key once, and no directory is needed. A record of another mesh does not verify, since the mesh id is
in the message.

A batch is one origin's delta, all live records with start < sequence ≤ the last one's, ascending:

    [public key 32, epoch, start, complete, floor record or nil, [[sequence, key, value or nil, signature 64], …]]

`complete`: the delta reaches the sender's newest record. The floor record rides along where the receiver may be below the
floor. There is no field for the end of the range: the highest sequence of a log always belongs to a live record, so the last
record's own signed sequence is the end, and nobody can claim one that the origin never wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import NamedTuple

from meshd.crypto.identity import Signer, Verifier, host_id_of
from meshd.errors import DecodeError
from meshd.gossip.codec import MAX_ARRAY, pack, take_bytes, take_int, take_map, take_tuple, unpack
from meshd.ids import HostId

__all__ = [
    "FLOOR_KEY",
    "MAX_BATCH_RECORDS",
    "MAX_KEY",
    "MAX_VALUE",
    "MESH_ID_SIZE",
    "SIGNATURE_SIZE",
    "Batch",
    "Record",
    "decode_batch",
    "decode_floor",
    "encode_batch",
    "encode_floor",
    "record_hash",
    "record_size",
    "sign_record",
    "signed_message",
    "verify_record",
]

LABEL = b"meshd record v1"
MESH_ID_SIZE = 16
PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64
MAX_KEY = 64
MAX_VALUE = 16 * 1024
MAX_BATCH_RECORDS = MAX_ARRAY
FLOOR_KEY = b"f"  # the reserved key: {1: floor sequence}


class Record(NamedTuple):
    origin: HostId
    epoch: int
    seq: int
    key: bytes
    value: bytes | None  # None: a tombstone
    signature: bytes


@dataclass(slots=True, frozen=True)
class Batch:
    public: bytes
    epoch: int
    start: int
    complete: bool
    floor: Record | None
    records: Sequence[Record]

    @property
    def origin(self) -> HostId:
        return host_id_of(self.public)


def signed_message(mesh_id: bytes, record: Record) -> bytes:
    return b"".join(
        (
            LABEL,
            mesh_id,
            record.origin,
            record.epoch.to_bytes(8, "little"),
            record.seq.to_bytes(8, "little"),
            bytes((len(record.key),)),
            record.key,
            b"\x00" if record.value is None else b"\x01" + record.value,
        )
    )


def sign_record(mesh_id: bytes, record: Record, signer: Signer) -> Record:
    """The same record with its signature (whatever the given one held)."""
    return record._replace(signature=signer(signed_message(mesh_id, record)))


def verify_record(mesh_id: bytes, record: Record, public: bytes, verifier: Verifier) -> bool:
    """True if `public` signed it. That `public` is the origin's is the caller's to know: Batch.origin computes it."""
    return verifier(public, record.signature, signed_message(mesh_id, record))


def record_hash(record: Record) -> int:
    """64 bits that stand for the record in its log's set hash (signature left out: it follows from the rest)."""
    return int.from_bytes(blake2s(signed_message(b"", record), digest_size=8).digest(), "little")


def record_size(record: Record) -> int:
    """Bytes that count towards quotas and message sizes: what the record takes in a batch, rounded up."""
    return len(record.key) + (len(record.value) if record.value is not None else 0) + SIGNATURE_SIZE + 20


def encode_floor(floor: int) -> bytes:
    return pack({1: floor})


def decode_floor(value: bytes | None) -> int:
    """The floor of a floor record's value. Raises DecodeError."""
    if value is None:
        raise DecodeError("a floor is never a tombstone")
    return take_int(take_map(unpack(value, max_bytes=64)).get(1))


def _row(record: Record) -> tuple[int, bytes, bytes | None, bytes]:
    return (record.seq, record.key, record.value, record.signature)


def encode_batch(batch: Batch) -> tuple[object, ...]:
    """The batch as a value for msgpack."""
    floor = None if batch.floor is None else _row(batch.floor)
    return (batch.public, batch.epoch, batch.start, batch.complete, floor, tuple(_row(r) for r in batch.records))


def _decode_row(value: object, origin: HostId, epoch: int) -> Record:
    if type(value) is not tuple or len(value) < 4:
        raise DecodeError("not a record")
    seq, key, body, signature = value[:4]
    return Record(
        origin,
        epoch,
        take_int(seq, 1),
        take_bytes(key, 1, MAX_KEY),
        None if body is None else take_bytes(body, 0, MAX_VALUE),
        take_bytes(signature, SIGNATURE_SIZE, SIGNATURE_SIZE),
    )


def decode_batch(value: object) -> Batch:
    """Check a batch that msgpack decoded; signatures are not looked at. Raises DecodeError."""
    fields = take_tuple(value, MAX_ARRAY, 6)
    public = take_bytes(fields[0], PUBLIC_KEY_SIZE, PUBLIC_KEY_SIZE)
    epoch, start = take_int(fields[1]), take_int(fields[2])
    if type(fields[3]) is not bool:
        raise DecodeError("complete is no bool")
    origin = host_id_of(public)
    floor = None if fields[4] is None else _decode_row(fields[4], origin, epoch)
    records = tuple(_decode_row(row, origin, epoch) for row in take_tuple(fields[5], MAX_BATCH_RECORDS))
    last = start
    for record in records:
        if record.seq <= last:
            raise DecodeError("records do not ascend from the start of the range")
        last = record.seq
    return Batch(public, epoch, start, fields[3], floor, records)
