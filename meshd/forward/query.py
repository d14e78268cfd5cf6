"""Path queries: how another router would reach a host, asked inside the sealed data channel for `meshd ping` and `meshd trace`.

Two bodies of kind-1 entries (see `control`), little-endian:

    path query (13 B)
     0         1                 5                                 13
    +---------+-----------------+---------------------------------+
    | 8       | token       u32 | destination        short id, 8  |
    +---------+-----------------+---------------------------------+
    path report (21 B)
     0         1                 5     6                         14                18        20    21
    +---------+-----------------+-----+-------------------------+-----------------+---------+-----+
    | 4       | token       u32 | way | next hop    short id, 8 | rtt      µs u32 | size u16| cost|
    +---------+-----------------+-----+-------------------------+-----------------+---------+-----+

The report says what its sender does with datagrams for `destination`: it is the destination (SELF), sends them straight there
(DIRECT, the next hop is the destination), hands them to a relay (RELAYED, the next hop is that one), or cannot (NONE, next hop
zeros). `rtt` is what its probes measure on that way, all ones where they have not yet; `size` the largest datagram of type 4 it
carries; `cost` its class, 0 to 3. A query tells its receiver nothing that link records do not, and a report its sender's view
only: `trace` asks hop by hop and believes each one for its own leg.
"""

from __future__ import annotations

import enum
import struct
from typing import Any, NamedTuple

from meshd.errors import DecodeError, LocalProtocolError
from meshd.forward.cost import WORST_COST
from meshd.ids import SHORT_ID_SIZE, ShortId

__all__ = [
    "NO_HOP",
    "PATH_QUERY",
    "PATH_REPORT",
    "PathQuery",
    "PathReport",
    "Way",
    "decode_query",
    "decode_report",
    "encode_query",
    "encode_report",
]

PATH_REPORT = 4  # of control.Subtype
PATH_QUERY = 8
NO_HOP = ShortId(bytes(SHORT_ID_SIZE))
_QUERY = struct.Struct("<BI8s")
_REPORT = struct.Struct("<BIB8sIHB")
_NO_RTT = 0xFFFF_FFFF


@enum.unique
class Way(enum.IntEnum):
    SELF = 1
    DIRECT = 2
    RELAYED = 3
    NONE = 4


_WAYS = frozenset(int(way) for way in Way)


class PathQuery(NamedTuple):
    token: int  # the asker's, comes back in the report
    destination: ShortId


class PathReport(NamedTuple):
    token: int
    way: Way
    hop: ShortId
    rtt_us: int | None
    max_datagram: int
    cost: int


def encode_query(query: PathQuery) -> bytes:
    """Raises LocalProtocolError for a value that its field cannot hold."""
    return _pack(_QUERY, PATH_QUERY, query.token, _id(query.destination))


def encode_report(report: PathReport) -> bytes:
    """Raises LocalProtocolError for a value that its field cannot hold. A round trip of 71 minutes is none that was measured."""
    rtt = _NO_RTT if report.rtt_us is None else min(report.rtt_us, _NO_RTT - 1)
    if not 0 <= report.cost <= WORST_COST:
        raise LocalProtocolError(f"no cost class: {report.cost}")
    return _pack(_REPORT, PATH_REPORT, report.token, report.way, _id(report.hop), rtt, report.max_datagram, report.cost)


def decode_query(body: bytes | bytearray | memoryview) -> PathQuery:
    """Raises DecodeError unless it is one, whole."""
    _, token, destination = _unpack(_QUERY, PATH_QUERY, body)
    return PathQuery(token, ShortId(destination))


def decode_report(body: bytes | bytearray | memoryview) -> PathReport:
    """Raises DecodeError unless it is one, whole, with a way, a hop and a cost that fit together."""
    _, token, way, hop, rtt, size, cost = _unpack(_REPORT, PATH_REPORT, body)
    if way not in _WAYS or cost > WORST_COST:
        raise DecodeError(f"a path report of way {way}, cost {cost}")
    if (way == Way.NONE) != (hop == NO_HOP):
        raise DecodeError("a path report with no way but a next hop, or the other way round")
    return PathReport(token, Way(way), ShortId(hop), None if rtt == _NO_RTT else rtt, size, cost)


def _id(short: ShortId) -> bytes:
    if len(short) != SHORT_ID_SIZE:
        raise LocalProtocolError(f"a short id of {len(short)} bytes")
    return short


def _pack(layout: struct.Struct, *values: int | bytes) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise LocalProtocolError(f"does not fit its fields: {values}") from error


def _unpack(layout: struct.Struct, subtype: int, body: bytes | bytearray | memoryview) -> tuple[Any, ...]:
    if len(body) != layout.size or body[0] != subtype:
        raise DecodeError(f"control entry of {len(body)} bytes, not {layout.size}")
    return layout.unpack(body)
