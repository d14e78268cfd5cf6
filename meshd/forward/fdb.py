"""The MAC table of the mesh: who claims a MAC, which claim holds, and when one of ours has to be raised.

Every host publishes a numbered claim for each MAC that it has, by an attachment or because it saw the MAC in a captured
frame. Attachments come before what was only seen; then the highest number holds; equal numbers: the lower host id. All hosts
compute the same owner from the same claims, in whatever order these came. When a MAC is captured here while another host's
claim holds, it has moved: we publish one number higher (RFC 7432 § 15, MAC mobility). Claims of hosts that cannot be reached
are hidden, not removed: they count when a number is raised, and hold again later.

What a reachable host has attached does not move by being seen elsewhere (a sticky MAC, § 15.2): its router knows that it is there,
and such a frame is forged, or came round a loop. The container might not speak for long enough to win its address back.

More than MAX_MOVES moves of a MAC within MOVE_WINDOW and it is *frozen* (RFC 7432 § 15.1): two places really have it. Nobody
raises a frozen MAC, so the owner stays, and stays the same on every host, since the owner is a function of the claims even
then; when no host that can be reached has it any more, the next one to see it does. It thaws when it has not moved for
MOVE_WINDOW. A move is a change of owner by a new claim; that a host became unreachable is none.

The caller publishes: `local_sight` and `next_number` say with which number, `expire_learned` what to withdraw (learned MACs
unseen for LEARNED_AGE, and those that a better claim has overtaken, so that moved MACs are no conflict for long).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

from meshd.budget import TokenBucket
from meshd.drops import DropCounters, DropReason
from meshd.errors import LocalProtocolError
from meshd.forward.claims import Claim, ClaimKind, FdbEvent, MacConflict, MacKey, MacView
from meshd.ids import HostId, Mac, SegmentId, is_multicast

__all__ = [
    "LEARNED_AGE",
    "LEARN_RATE",
    "MAX_CLAIMS",
    "MAX_EVENTS",
    "MAX_LEARNED",
    "MAX_MOVES",
    "MAX_NUMBER",
    "MAX_WAITING",
    "MOVE_WINDOW",
    "Fdb",
]

MAX_CLAIMS = 65_536  # of all other hosts together: the mesh's cap on MACs; a MAC that two hosts claim counts twice
MAX_LEARNED = 4096  # MACs that this host announces without an attachment
LEARN_RATE = 100.0  # new ones of those, a second
MAX_WAITING = 1024  # new MACs over that rate; more are found among the sources of flows
LEARNED_AGE = 600.0  # seconds unseen, as Weave's MAC cache and twice a Linux bridge's
MAX_MOVES = 5  # RFC 7432 § 15.1: N = 5 moves within M = 180 s
MOVE_WINDOW = 180.0
MAX_NUMBER = 2**32 - 1
MAX_EVENTS = 256


class _Entry:
    __slots__ = ("attached", "claims", "last_seen", "local_seen", "moves", "owner")

    def __init__(self, now: float) -> None:
        self.claims: dict[tuple[HostId, ClaimKind, str], int] = {}
        self.owner: HostId | None = None
        self.attached = False  # whether the owner owns it by an attachment
        self.moves: deque[float] = deque(maxlen=MAX_MOVES + 1)
        self.last_seen = now
        self.local_seen = now  # in a frame captured here: what our own learned claim ages by

    def has(self, host: HostId, kind: ClaimKind) -> bool:
        return any((claim[0], claim[1]) == (host, kind) for claim in self.claims)

    def ranked(self) -> list[tuple[HostId, Claim]]:
        """All claims, best first: attachments, then by number, then by host."""
        order = sorted((kind, -number, host, label) for (host, kind, label), number in self.claims.items())
        return [(host, Claim(-negative, kind, label)) for kind, negative, host, label in order]


class Fdb:
    """Claims per (segment, MAC). At first only this host is reachable, see `set_reachable`. Numbers start at 1."""

    __slots__ = (
        "_by_host",
        "_entries",
        "_events",
        "_frozen",
        "_learn_bucket",
        "_learned",
        "_others",
        "_reachable",
        "_self",
        "_waiting",
        "drops",
    )

    def __init__(self, self_id: HostId, drops: DropCounters | None = None) -> None:
        self._self = self_id
        self._entries: dict[MacKey, _Entry] = {}
        self._by_host: dict[HostId, set[MacKey]] = {}
        self._reachable: frozenset[HostId] = frozenset({self_id})
        self._others = 0  # claims of other hosts
        self._frozen: set[MacKey] = set()
        self._learned: set[MacKey] = set()  # keys with a learned claim of our own
        self._learn_bucket = TokenBucket(LEARN_RATE, LEARN_RATE)
        self._events: deque[FdbEvent] = deque(maxlen=MAX_EVENTS)  # the oldest alarm gives way
        self.drops = drops if drops is not None else DropCounters()
        self._waiting: dict[MacKey, None] = {}  # seen here, but over LEARN_RATE, the longest first

    def __len__(self) -> int:
        return len(self._entries)

    # claims, ours and others', as they are published

    def set_claim(
        self, host: HostId, segment: SegmentId, mac: Mac, number: int, kind: ClaimKind, label: str, now: float
    ) -> bool:
        """Note a claim, replacing that host's of this kind and label; True: flows of the MAC are void.

        They are when the owner changed, or now has the MAC attached, or no longer.

        A claim of another host beyond MAX_CLAIMS is ignored and counted (TABLE_FULL). Raises LocalProtocolError for a number
        that no record can carry.
        """
        if not 0 <= number <= MAX_NUMBER:
            raise LocalProtocolError(f"claim number {number}")
        key = MacKey(segment, mac)
        entry = self._entries.get(key)
        claim = (host, kind, label)
        if entry is None or claim not in entry.claims:
            if host != self._self:
                if self._others >= MAX_CLAIMS:
                    self.drops.add(DropReason.TABLE_FULL)
                    return False
                self._others += 1
            elif kind is ClaimKind.LEARNED:
                self._learned.add(key)
        if entry is None:
            entry = self._entries[key] = _Entry(now)
        entry.claims[claim] = number
        self._by_host.setdefault(host, set()).add(key)
        before = entry.owner
        if not self._elect(entry):
            return False
        entry.last_seen = now
        if before not in (None, entry.owner):
            self._count_move(key, entry, now)
        return True

    def drop_claim(
        self,
        host: HostId,
        segment: SegmentId,
        mac: Mac,
        now: float,
        *,
        kind: ClaimKind | None = None,
        label: str | None = None,
    ) -> bool:
        """Forget this host's claims of the MAC (only those of that kind and label, where told); True: its flows are void."""
        key = MacKey(segment, mac)
        entry = self._entries.get(key)
        if entry is None:
            return False
        for claim in list(entry.claims):
            if claim[0] == host and kind in (None, claim[1]) and label in (None, claim[2]):
                self._remove(key, entry, claim)
        changed = self._elect(entry)
        if changed:
            entry.last_seen = now
        return changed

    def drop_host(self, host: HostId) -> list[MacKey]:
        """Forget all that a host claims; returns the MACs whose flows are void."""
        changed = []
        for key in sorted(self._by_host.get(host, ())):
            entry = self._entries[key]
            for claim in [claim for claim in entry.claims if claim[0] == host]:
                self._remove(key, entry, claim)
            if self._elect(entry):
                changed.append(key)
        return changed

    def set_reachable(self, hosts: Iterable[HostId]) -> list[MacKey]:
        """These hosts, and this one, can be reached; claims of all others are hidden. Returns the MACs whose flows are void."""
        reachable = frozenset(hosts) | {self._self}
        touched: set[MacKey] = set()
        for host in reachable ^ self._reachable:
            touched |= self._by_host.get(host, set())
        self._reachable = reachable
        return [key for key in sorted(touched) if self._elect(self._entries[key])]

    # what deciding asks

    def lookup(self, segment: SegmentId, mac: Mac) -> HostId | None:
        """The host whose claim holds, or None."""
        entry = self._entries.get(MacKey(segment, mac))
        return None if entry is None else entry.owner

    def holds(self, segment: SegmentId, mac: Mac) -> tuple[HostId | None, bool]:
        """The owner, and whether it has the MAC attached: what verdicts depend on."""
        entry = self._entries.get(MacKey(segment, mac))
        return (None, False) if entry is None else (entry.owner, entry.attached)

    def own_claim(self, segment: SegmentId, mac: Mac) -> Claim | None:
        """The best claim that this host itself has, whoever's holds: what `local_sight` asks to have raised."""
        entry = self._entries.get(MacKey(segment, mac))
        ranked = entry.ranked() if entry is not None else []
        return next((claim for host, claim in ranked if host == self._self), None)

    def attached_elsewhere(self, segment: SegmentId, mac: Mac) -> bool:
        """Whether a reachable other host has it attached, and this one has not: then it cannot be here."""
        entry = self._entries.get(MacKey(segment, mac))
        if entry is None or not entry.attached or entry.owner == self._self:
            return False
        return not entry.has(self._self, ClaimKind.ATTACHMENT)

    def is_frozen(self, segment: SegmentId, mac: Mac) -> bool:
        """Frozen and not yet thawed (`thaw`)."""
        return MacKey(segment, mac) in self._frozen

    # what was seen here

    def next_number(self, segment: SegmentId, mac: Mac) -> int:
        """The number for an attachment here: ours where it beats all others, hidden ones too, else the highest and one more."""
        entry = self._entries.get(MacKey(segment, mac))
        if entry is None or not entry.claims:
            return 1
        host, best = entry.ranked()[0]
        return best.number if host == self._self else min(best.number + 1, MAX_NUMBER)

    def local_sight(self, segment: SegmentId, mac: Mac, now: float) -> int | None:
        """A frame with this source was captured here. Returns the number that our claim must get, None: nothing to publish.

        The claim is that of our attachment, where we have one, else a learned one. Nothing: ours is the best of its kind (hidden
        ones included: a MAC that left a dead host must not go back to it), the MAC is attached elsewhere, or frozen and some
        host's, the number cannot grow, or it is new and over LEARN_RATE (see `take_waiting`) or MAX_LEARNED (TABLE_FULL).
        """
        if is_multicast(mac) or not any(mac):
            return None  # no station's address
        key = MacKey(segment, mac)
        entry = self._entries.get(key)
        if entry is None or not entry.claims:
            return 1 if self._may_learn(key, now) else None
        entry.last_seen = entry.local_seen = now
        if (key in self._frozen and entry.owner is not None) or self.attached_elsewhere(segment, mac):
            return None
        kind = ClaimKind.ATTACHMENT if entry.has(self._self, ClaimKind.ATTACHMENT) else ClaimKind.LEARNED
        rivals = [(host, claim.number) for host, claim in entry.ranked() if claim.kind is kind]
        host, number = rivals[0] if rivals else (None, 0)
        if host == self._self or number >= MAX_NUMBER:
            return None
        ours = any(other == self._self for other, _ in rivals)
        return number + 1 if ours or self._may_learn(key, now) else None

    @property
    def waits(self) -> bool:
        """Whether a new MAC was over LEARN_RATE."""
        return bool(self._waiting)

    def take_waiting(self) -> list[MacKey]:
        """The next of those, as many as may be learned in a second: `local_sight` is to be asked about each once more."""
        taken = list(itertools.islice(self._waiting, int(LEARN_RATE)))
        for key in taken:
            del self._waiting[key]
        return taken

    def touch(self, segment: SegmentId, mac: Mac, now: float, *, local: bool) -> None:
        """A flow with this source is in use; `local`: its frames are captured here, which keeps a learned MAC young."""
        entry = self._entries.get(MacKey(segment, mac))
        if entry is not None:
            entry.last_seen = max(entry.last_seen, now)
            if local:
                entry.local_seen = max(entry.local_seen, now)

    def expire_learned(self, now: float) -> list[MacKey]:
        """Drop our learned claims unseen here for LEARNED_AGE, or overtaken; the caller withdraws the records, voids the flows."""
        gone = []
        for key in sorted(self._learned):
            entry = self._entries[key]
            if entry.owner not in (None, self._self) or now - entry.local_seen >= LEARNED_AGE:
                gone.append(key)
                self.drop_claim(self._self, key.segment, key.mac, entry.last_seen, kind=ClaimKind.LEARNED)
        return gone

    def thaw(self, now: float) -> list[MacKey]:
        """End the freeze of MACs that rested for MOVE_WINDOW; the caller voids their flows (some are cached drops)."""
        thawed = [key for key in sorted(self._frozen) if self._rested(self._entries[key], now)]
        for key in thawed:
            self._end_freeze(key, self._entries[key])
        return thawed

    def next_event(self) -> FdbEvent | None:
        return self._events.popleft() if self._events else None

    # what people see

    def views(self) -> list[MacView]:
        """Every MAC with an owner, sorted."""
        return [self._view(key, entry, owner) for key, entry in self._sorted() if (owner := entry.owner) is not None]

    def conflicts(self) -> list[MacConflict]:
        """MACs that are frozen, or that a second reachable host has *attached*; a learned claim that lost is about to go."""
        found = []
        for key, entry in self._sorted():
            shown = tuple((host, claim) for host, claim in entry.ranked() if host in self._reachable)
            lost = any(host != entry.owner and claim.kind is ClaimKind.ATTACHMENT for host, claim in shown)
            if lost or key in self._frozen:
                found.append(MacConflict(segment=key.segment, mac=key.mac, frozen=key in self._frozen, claims=shown))
        return found

    def _sorted(self) -> list[tuple[MacKey, _Entry]]:
        return sorted(self._entries.items(), key=lambda item: item[0])

    def _view(self, key: MacKey, entry: _Entry, owner: HostId) -> MacView:
        claim = next(claim for host, claim in entry.ranked() if host == owner)
        return MacView(
            mac=key.mac,
            segment=key.segment,
            owner=owner,
            kind=claim.kind,
            claim=claim.number,
            label=claim.label,
            local=owner == self._self,
            frozen=key in self._frozen,
            last_seen=entry.last_seen,
        )

    # inside

    def _elect(self, entry: _Entry) -> bool:
        """Compute the owner anew; True if it changed, or has it in another way than before."""
        before = entry.owner, entry.attached
        best = min(
            ((kind, -number, host) for (host, kind, _), number in entry.claims.items() if host in self._reachable),
            default=None,
        )
        entry.owner, entry.attached = (None, False) if best is None else (best[2], best[0] is ClaimKind.ATTACHMENT)
        return (entry.owner, entry.attached) != before

    def _remove(self, key: MacKey, entry: _Entry, claim: tuple[HostId, ClaimKind, str]) -> None:
        host, kind, _ = claim
        del entry.claims[claim]
        if host != self._self:
            self._others -= 1
        elif kind is ClaimKind.LEARNED:
            self._learned.discard(key)
        if not any(other == host for other, _, _ in entry.claims):
            keys = self._by_host[host]
            keys.discard(key)
            if not keys:
                del self._by_host[host]
        if not entry.claims:
            self._frozen.discard(key)
            del self._entries[key]

    def _count_move(self, key: MacKey, entry: _Entry, now: float) -> None:
        if key in self._frozen and self._rested(entry, now):
            self._end_freeze(key, entry)  # `thaw` is late
        entry.moves.append(now)
        if key not in self._frozen and len(entry.moves) > MAX_MOVES and now - entry.moves[0] <= MOVE_WINDOW:
            self._frozen.add(key)
            self._events.append(FdbEvent(segment=key.segment, mac=key.mac, frozen=True, owner=entry.owner))

    def _end_freeze(self, key: MacKey, entry: _Entry) -> None:
        self._frozen.discard(key)
        entry.moves.clear()
        self._events.append(FdbEvent(segment=key.segment, mac=key.mac, frozen=False, owner=entry.owner))

    def _may_learn(self, key: MacKey, now: float) -> bool:
        if len(self._learned) >= MAX_LEARNED:
            self.drops.add(DropReason.TABLE_FULL)
            return False
        if self._learn_bucket.take(now):
            self._waiting.pop(key, None)
            return True
        if len(self._waiting) < MAX_WAITING:
            self._waiting[key] = None
        return False

    @staticmethod
    def _rested(entry: _Entry, now: float) -> bool:
        return now - entry.moves[-1] >= MOVE_WINDOW
