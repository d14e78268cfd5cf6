"""Claims of MACs, and what the table of them (`fdb`) says to others: lines for people, conflicts, alarms."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from meshd.ids import HostId, Mac, SegmentId

__all__ = ["Claim", "ClaimKind", "FdbEvent", "MacConflict", "MacKey", "MacView"]


@enum.unique
class ClaimKind(enum.IntEnum):
    ATTACHMENT = 1
    LEARNED = 2


class MacKey(NamedTuple):
    segment: SegmentId
    mac: Mac


class Claim(NamedTuple):
    """`label` tells apart the attachments of one host that have the same MAC, and is what people see; learned: empty."""

    number: int
    kind: ClaimKind
    label: str


@dataclass(slots=True, frozen=True, kw_only=True)
class MacView:
    """One line of `status macs`: a MAC and the claim that holds. `last_seen`: `now` of the last frame or claim."""

    mac: Mac
    segment: SegmentId
    owner: HostId
    kind: ClaimKind
    claim: int
    label: str
    local: bool
    frozen: bool
    last_seen: float


@dataclass(slots=True, frozen=True, kw_only=True)
class MacConflict:
    """A MAC that two reachable hosts hold on to: `claims` best first; the first is the owner's."""

    segment: SegmentId
    mac: Mac
    frozen: bool
    claims: tuple[tuple[HostId, Claim], ...]


@dataclass(slots=True, frozen=True, kw_only=True)
class FdbEvent:
    """An alarm: the MAC froze (`frozen`), or thawed. `owner` is who has it meanwhile."""

    segment: SegmentId
    mac: Mac
    frozen: bool
    owner: HostId | None
