"""Why a frame, datagram or message was dropped: one enum, one counter each, shown by `meshd status` and `report`.

Standard library only, so that every layer can name a reason. Append only: the native engine and scrapers know the numbers. A reason
names the cause as the operator would look for it, never the function that found it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["DropCounters", "DropReason", "Unsent", "went_out"]


@enum.unique
class DropReason(enum.IntEnum):
    # outer datagram, before authentication (docs/protocol.md, "Gate")
    TRUNCATED = 1  # shorter than its type's header
    BAD_LENGTH = 2  # a type of exact length with another length
    UNKNOWN_VERSION = 3
    UNKNOWN_TYPE = 4
    UNKNOWN_SEGMENT = 5
    BAD_MAC1 = 6  # not of our mesh, or not meant for us
    UNKNOWN_INDEX = 7  # no session under this receiver index
    RATE_LIMITED = 8
    # authentication and replay
    BAD_TAG = 9  # AEAD refused it: flipped, forged, or under an old key
    REPLAYED = 10
    TOO_OLD = 11  # behind the replay window
    KEY_EXPIRED = 12
    BAD_HANDSHAKE = 13  # Noise refused it: other key, spliced, all-zero DH
    STALE_HANDSHAKE = 14  # a type 1 whose liveness is not newer than the last
    UNKNOWN_PEER = 15  # right mesh, but no record of this static key yet
    UNEXPECTED_HANDSHAKE = 16  # an answer to nothing we asked
    REFLECTED = 17  # our own message came back
    # inside an authenticated datagram
    BAD_ENTRY = 18  # entry length or kind does not fit
    BAD_CONTROL = 19
    BAD_FRAME = 20  # runt, giant, or a header that lies
    BAD_CHECKSUM = 21
    # deciding
    LOCAL = 22  # both ends are on this host: the bridge has delivered it
    SOURCE_MULTICAST = 23  # a group address as source (IEEE 802.3 forbids it)
    LINK_LOCAL_CONTROL = 24  # STP, LLDP, pause: 01:80:c2:00:00:0x never leaves a bridge
    NOT_LOCAL = 25  # from the mesh for a MAC that is not here and has no other owner
    UNKNOWN_LIMITED = 26  # flood of an unknown unicast over its budget
    UPCALL_OVERLOAD = 27
    MAC_FROZEN = 28  # the MAC moved too often
    TABLE_FULL = 29
    # sending
    NO_SESSION = 30
    NO_PATH = 31
    TOO_BIG = 32
    QUEUE_FULL = 33
    SEND_FAILED = 34
    TAP_DOWN = 35
    # floods
    FLOOD_DUPLICATE = 36
    FLOOD_TTL = 37
    FLOOD_UNKNOWN_ORIGIN = 38
    # kernel, before us
    KERNEL_UDP = 39  # SO_RXQ_OVFL
    KERNEL_TAP = 40  # TAP tx_dropped
    # control links and records
    LINK_GARBAGE = 41
    LINK_LIMIT = 42
    BAD_RECORD = 43
    BAD_SIGNATURE = 44
    RECORD_QUOTA = 45
    STALE_RECORD = 46  # of an epoch that is over
    FORWARD_LOOP = 47  # a redirected frame would be redirected again
    # groups
    NO_MEMBERS = 48  # to a group that no container of another host has joined
    # relays
    RELAY_NO_ROUTE = 49  # no way leads to the host that a relayed datagram is for
    RELAY_LOOP = 50  # it would go back to where it came from
    RELAY_TTL = 51  # it has passed too many hosts
    # pcap mode
    CAPTURE_ECHO = 52  # its source MAC is of a frame that we sent a moment ago: what we sent came back
    # the gate
    NO_COOKIE = 53  # a handshake that must first show a cookie: one was sent
    # pieces of frames (entries of kind 3)
    BAD_FRAGMENT = 54  # overlaps another, comes twice, or makes no entry
    FRAGMENT_LOST = 55  # an entry of which some piece did not come in time
    # deciding, once more
    MAC_TAKEN = 56  # captured here, but another host has the container of this MAC: forged, or round a loop


class Unsent(NamedTuple):
    """How many datagrams of one send did not go out, and why (of several reasons the last)."""

    reason: DropReason
    datagrams: int


def went_out(unsent: Unsent | None, count: int, size: int, total: int) -> tuple[int, int]:
    """How many datagrams, and bytes, of a send of `count` datagrams of `size` bytes did; all are `total` bytes, as the last may be
    shorter."""
    if unsent is None:
        return count, total
    sent = count - unsent.datagrams
    return sent, sent * size


class DropCounters:
    """Counts per reason; `counters[reason] += 1` on a plain list, since it happens per packet."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * (max(DropReason) + 1)

    def add(self, reason: DropReason, count: int = 1) -> None:
        self._counts[reason] += count

    def __getitem__(self, reason: DropReason) -> int:
        return self._read()[reason]

    def items(self) -> Iterator[tuple[DropReason, int]]:
        """The reasons that have happened, with their counts."""
        counts = self._read()
        return ((reason, counts[reason]) for reason in DropReason if counts[reason])

    def _read(self) -> list[int]:
        """The counts, for reading."""
        return self._counts

    def as_dict(self) -> dict[str, int]:
        return {reason.name.lower(): count for reason, count in self.items()}
