"""Bodies of kind-1 entries: what two routers tell each other inside the sealed data channel.

A body stands in an authenticated datagram of type 4, after its two-byte entry header; the first byte is the subtype.
Little-endian.

    probe, echo (17 B)
     0         1                 5                                 13                17
    +---------+-----------------+---------------------------------+-----------------+
    | 1 or 2  | seq         u32 | sent                µs      u64 | heard       u32 |
    +---------+-----------------+---------------------------------+-----------------+
    pad (1 B and up)                    bye (2 B)
     0         1            n            0         1         2
    +---------+----- … -----+           +---------+---------+
    | 3       | zeros       |           | 5       | reason  |
    +---------+----- … -----+           +---------+---------+
    size probe (5 B and up)                          size echo (7 B)
     0         1                 5            n       0         1                 5         7
    +---------+-----------------+----- … -----+      +---------+-----------------+---------+
    | 6       | seq         u32 | zeros       |      | 7       | seq         u32 | size u16|
    +---------+-----------------+----- … -----+      +---------+-----------------+---------+

`seq` and `sent` are the prober's and come back unchanged in the echo; `heard` is how many probes of the receiver the sender
of this body has heard on this path (modulo 2^32), so that each end can tell in which direction probes are lost. A size probe is
padded to the size that is asked about; its echo has its `seq` and how many bytes its body had. Subtypes 4 and 8 are those of
`query`. The lengths are exact: a body is extended by a new subtype number, never by bytes at its end,
so that old routers count what they do not know (`BAD_CONTROL`) rather than misread it. Numbers are append-only; unknown bye
reasons are kept as they are.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple, TypeAlias

from meshd.errors import DecodeError, LocalProtocolError
from meshd.forward.query import (
    PathQuery,
    PathReport,
    decode_query,
    decode_report,
    encode_query,
    encode_report,
)

__all__ = [
    "MAX_CONTROL",
    "Bye",
    "ByeReason",
    "Control",
    "Echo",
    "Pad",
    "Probe",
    "SizeEcho",
    "SizeProbe",
    "Subtype",
    "decode_control",
    "encode_control",
]

MAX_CONTROL = 16_383  # the largest entry: 14 bits of length
_PROBE = struct.Struct("<BIQI")
_BYE = struct.Struct("<BB")
_SIZE_PROBE = struct.Struct("<BI")
_SIZE_ECHO = struct.Struct("<BIH")
_U8, _U32, _U64 = 0xFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


@enum.unique
class Subtype(enum.IntEnum):
    PROBE = 1
    ECHO = 2
    PAD = 3
    PATH_REPORT = 4
    BYE = 5
    SIZE_PROBE = 6
    SIZE_ECHO = 7
    PATH_QUERY = 8


@enum.unique
class ByeReason(enum.IntEnum):
    STOPPING = 1  # the router ends; it may be back under the same identity
    RESET = 2  # its state and identity are being deleted
    FORGOTTEN = 3  # its user told it to forget us
    IDLE = 4  # it stays; only the session that no frame has used for long ends


class Probe(NamedTuple):
    seq: int
    sent_us: int
    heard: int


class Echo(NamedTuple):
    seq: int
    sent_us: int
    heard: int


class Pad(NamedTuple):
    """Fills a datagram to a size; `size` is that of the whole body, the subtype byte included."""

    size: int


class Bye(NamedTuple):
    reason: int


class SizeProbe(NamedTuple):
    """Asks whether a datagram with a body of `size` bytes arrives."""

    seq: int
    size: int


class SizeEcho(NamedTuple):
    """It does; `size` is what arrived."""

    seq: int
    size: int


Control: TypeAlias = Probe | Echo | Pad | Bye | SizeProbe | SizeEcho | PathQuery | PathReport


def encode_control(control: Control) -> bytes:
    """Raises LocalProtocolError for a value that its field cannot hold."""
    match control:
        case Probe(seq, sent_us, heard) | Echo(seq, sent_us, heard):
            if not (0 <= seq <= _U32 and 0 <= sent_us <= _U64 and 0 <= heard <= _U32):
                raise LocalProtocolError(f"does not fit its fields: {control}")
            return _PROBE.pack(Subtype.PROBE if isinstance(control, Probe) else Subtype.ECHO, seq, sent_us, heard)
        case Pad(size):
            if not 1 <= size <= MAX_CONTROL:
                raise LocalProtocolError(f"a pad of {size} bytes is no entry")
            return bytes([Subtype.PAD]) + bytes(size - 1)
        case Bye(reason):
            if not 0 <= reason <= _U8:
                raise LocalProtocolError(f"does not fit its field: {control}")
            return _BYE.pack(Subtype.BYE, reason)
        case PathQuery():
            return encode_query(control)
        case PathReport():
            return encode_report(control)
        case SizeProbe(seq, size) | SizeEcho(seq, size):
            if not (0 <= seq <= _U32 and _SIZE_PROBE.size <= size <= MAX_CONTROL):
                raise LocalProtocolError(f"does not fit its fields: {control}")
            if isinstance(control, SizeEcho):
                return _SIZE_ECHO.pack(Subtype.SIZE_ECHO, seq, size)
            return _SIZE_PROBE.pack(Subtype.SIZE_PROBE, seq) + bytes(size - _SIZE_PROBE.size)


def decode_control(body: bytes | bytearray | memoryview) -> Control:
    """The body of one kind-1 entry. Raises DecodeError for an unknown subtype, another length, or a pad that is not zeros."""
    if not body:
        raise DecodeError("empty control entry")
    subtype = body[0]
    if subtype in (Subtype.PROBE, Subtype.ECHO):
        _want(len(body), _PROBE.size)
        _, seq, sent_us, heard = _PROBE.unpack(body)
        return Probe(seq, sent_us, heard) if subtype == Subtype.PROBE else Echo(seq, sent_us, heard)
    if subtype == Subtype.PAD:
        _want_zeros(body, 1)
        return Pad(len(body))
    if subtype == Subtype.SIZE_PROBE:
        _want_zeros(body, _SIZE_PROBE.size)
        return SizeProbe(_SIZE_PROBE.unpack_from(body)[1], len(body))
    if subtype == Subtype.SIZE_ECHO:
        _want(len(body), _SIZE_ECHO.size)
        _, seq, size = _SIZE_ECHO.unpack(body)
        if not _SIZE_PROBE.size <= size <= MAX_CONTROL:
            raise DecodeError(f"a size echo of {size} bytes, which no probe has")
        return SizeEcho(seq, size)
    if subtype == Subtype.BYE:
        _want(len(body), _BYE.size)
        return Bye(body[1])
    if subtype == Subtype.PATH_QUERY:
        return decode_query(body)
    if subtype == Subtype.PATH_REPORT:
        return decode_report(body)
    raise DecodeError(f"unknown control subtype {subtype}")


def _want(size: int, exact: int) -> None:
    if size != exact:
        raise DecodeError(f"control entry of {size} bytes, not {exact}")


def _want_zeros(body: bytes | bytearray | memoryview, start: int) -> None:
    """After `start` bytes there are zeros only."""
    if not start <= len(body) <= MAX_CONTROL or bytes(body[start:]) != bytes(len(body) - start):
        raise DecodeError(f"padding of {len(body)} bytes that is too short, too long or not zeros")
