"""Path MTU: how large a datagram one path takes, found by padded probes (RFC 8899) and by nothing else.

Sizes here are those of IP packets on the underlay, headers included, as `ip link` and ICMP count them; a datagram is `overhead`
smaller: 28 B in IPv4, 48 B in IPv6, more behind a relay. A size probe is padded to the size in question, its echo is small and
says how large the probe was. Only an echo raises the size in use, and only silence lowers it: an ICMP message, true or forged,
never does.

            start          base answered          nothing larger passes
    IDLE ──────────▶ BASE ───────────────▶ SEARCH ─────────────────────▶ COMPLETE
     ▲                │ nothing answered    ▲  ▲ ▲        600 s           │  │ ▲
     │ stop,          ▼        answer       │  │ └────────────────────────┘  │ │ that size answered
     │ from any     SILENT ─────────────────┘  │ smaller ones are       miss ▼ │
     │ start: BASE                             └─────────────────────────── DOUBT

    in use:  BASE 1280 B, less if the path before took less · SILENT 552 B · SEARCH what was confirmed
             COMPLETE, DOUBT the largest that was found

*Search.* First base and limit (what the device takes) at once: a clean path is measured in one round trip. If the limit is not
answered, the sizes that real networks have, all together, then eighths of what is left, until 8 B are. A size has failed after
three tries. What is answered is used at once.

*Holes.* A router that drops large packets in silence stops bulk traffic and no small probe. So the size in use is confirmed
while it matters: every second in which the path has carried half as much beyond our own probes. So probing costs at most one
packet a second and twice what the traffic costs, and nothing on an idle path. Is it not answered, all sizes are asked for again
(DOUBT); has the size in use failed three times while a smaller one passed, the largest that passed is used. That is 2 s after the
hole opened, before the retransmission that TCP sends 3 s after its first loss. If nothing is answered there is no hole:
liveness decides.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from meshd.errors import LocalProtocolError
from meshd.forward.control import MAX_CONTROL, SizeProbe, encode_control
from meshd.forward.entries import ENTRY_HEADER_SIZE
from meshd.forward.header import DATA_OVERHEAD

__all__ = [
    "BASE_MTU",
    "CONFIRMED_WITHIN",
    "FLOOR_MTU",
    "LOOK_INTERVAL",
    "PRECISION",
    "RAISE_INTERVAL",
    "SIZE_TIMEOUT",
    "SIZE_TRIES",
    "PathSizes",
    "Pmtu",
    "PmtuState",
]

FLOOR_MTU = 552  # smaller is never believed; Linux has the same floor for what ICMP says (ip_rt_min_pmtu)
BASE_MTU = 1280  # what every IPv6 link takes, and practically every IPv4 path
SIZE_TIMEOUT = 0.25  # at least; 2·SRTT where that is more
SIZE_TRIES = 3
PRECISION = 8
LOOK_INTERVAL = 0.9  # polls come with the liveness probes, every second
RAISE_INTERVAL = 600.0  # RFC 8899, PMTU_RAISE_TIMER
CONFIRMED_WITHIN = 15.0  # seconds for which small frames may share datagrams of the larger size
QUIET_INTERVAL = 2.0  # between tries while nothing at all is answered
LATE = 0.5  # a poll so late counts no silence: the echo may wait in the socket
MAX_EXCUSES = 4
MAX_OUTSTANDING = 64
_STEPS = 8
# IPv6 minimum, common tunnels (GRE, VXLAN, WireGuard, IPsec), PPPoE, Ethernet; jumbo frames, plain and in a tunnel
_MARKS = (FLOOR_MTU, 800, 1000, 1200, BASE_MTU, 1400, 1420, 1450, 1480, 1492, 1500, 4000, 8000, 8900, 8951, 9000)
_U32 = 0xFFFF_FFFF


@enum.unique
class PmtuState(enum.Enum):
    IDLE = "idle"
    BASE = "base"
    SEARCH = "searching"
    COMPLETE = "complete"
    DOUBT = "doubt"
    SILENT = "silent"


class _Cause(enum.Enum):
    START = enum.auto()
    STOP = enum.auto()
    ANSWER = enum.auto()
    SILENCE = enum.auto()
    FOUND = enum.auto()
    RAISE = enum.auto()
    MISS = enum.auto()
    HOLE = enum.auto()


_TRANSITIONS: dict[tuple[PmtuState, _Cause], PmtuState] = {
    **{(state, _Cause.START): PmtuState.BASE for state in PmtuState},
    **{(state, _Cause.STOP): PmtuState.IDLE for state in PmtuState},
    (PmtuState.BASE, _Cause.ANSWER): PmtuState.SEARCH,
    (PmtuState.BASE, _Cause.SILENCE): PmtuState.SILENT,
    (PmtuState.SILENT, _Cause.ANSWER): PmtuState.SEARCH,
    (PmtuState.SEARCH, _Cause.FOUND): PmtuState.COMPLETE,
    (PmtuState.COMPLETE, _Cause.RAISE): PmtuState.SEARCH,
    (PmtuState.COMPLETE, _Cause.MISS): PmtuState.DOUBT,
    (PmtuState.DOUBT, _Cause.ANSWER): PmtuState.COMPLETE,
    (PmtuState.DOUBT, _Cause.HOLE): PmtuState.SEARCH,
}


class PathSizes(NamedTuple):
    """What the engine is told, in UDP payload. `aggregate` None: the engine's own cautious limit. `measured`: it is found out,
    and whoever sends more may be told so."""

    datagram: int
    aggregate: int | None
    measured: bool


class Pmtu:
    """One path. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self.state = PmtuState.IDLE
        self.size = FLOOR_MTU  # in use
        self._limit = FLOOR_MTU
        self._overhead = 0
        self._ceiling = FLOOR_MTU + 1  # the smallest size that failed
        self._best = 0  # the largest size answered since the start, or since the doubt
        self._confirmed_at = float("-inf")
        self._round: list[int] = []  # sizes asked for and not answered, ascending
        self._tries = 0
        self._first = False  # of a search: only the limit is tried
        self._before = BASE_MTU  # what was confirmed last of the paths before this one
        self._due: float | None = None  # when the time of this try is up
        self._excuses = 0
        self._next_seq = 1  # goes on over starts, so that an echo of another path fits nothing
        self._outstanding: dict[int, int] = {}  # sequence number → size
        self._looked = float("-inf")
        self._raise_at = float("inf")
        self._sent = 0  # bytes at the last look
        self._own = 0  # of them our probes

    def start(self, limit: int, overhead: int, now: float) -> None:
        """Measure a path. `limit`: IP packet that the device takes; `overhead`: of it, what is not the datagram."""
        self._forget()
        self._overhead = overhead
        self._limit = max(FLOOR_MTU, min(limit, overhead + DATA_OVERHEAD + ENTRY_HEADER_SIZE + MAX_CONTROL))
        self._ceiling = self._limit + 1
        self._change(_Cause.START)
        # All ways to one host may share their narrow part: frames that the path before has carried must not be lost on this one.
        self.size = min(BASE_MTU, self._limit, self._before)
        self._begin({self.size, min(BASE_MTU, self._limit), self._limit}, now, first=True)

    def stop(self) -> None:
        self._forget()
        self._change(_Cause.STOP)

    def sizes(self, now: float) -> PathSizes:
        datagram = self.size - self._overhead
        fresh = now - self._confirmed_at <= CONFIRMED_WITHIN
        return PathSizes(datagram, datagram if fresh else None, self.state is PmtuState.COMPLETE)

    # time

    def next_deadline(self) -> float | None:
        """When `poll` has something to judge; None: it only looks, whenever it is called."""
        return self._due

    def poll(self, now: float, *, srtt: float | None, sent: Callable[[], int]) -> list[bytes]:
        """The bodies of size probes to send now, each alone in its datagram. `sent` says how many bytes the path has carried."""
        if self.state is PmtuState.IDLE:
            return []
        if self._due is None:
            self._look(now, sent)
        if self._due is None or now < self._due:
            return []
        timeout = max(SIZE_TIMEOUT, 2 * (srtt or 0.0))
        if self._tries and now - self._due > LATE and self._excuses < MAX_EXCUSES:
            self._excuses += 1
            self._due = now + timeout
            return []
        self._excuses = 0
        self._judge(now)
        if not self._round:
            return []
        quiet = self._tries >= SIZE_TRIES and not self._best
        self._tries += 1
        self._due = now + (max(timeout, QUIET_INTERVAL) if quiet else timeout)
        return [self._probe(size) for size in self._round]

    # what comes in

    def on_echo(self, seq: int, body_size: int, now: float) -> bool:
        """Whether it answers one of our probes; then that size passes."""
        size = self._outstanding.get(seq)
        if size is None or body_size != self._body_size(size):
            return False
        del self._outstanding[seq]
        if not self._best:
            self._tries = min(self._tries, SIZE_TRIES - 1)  # what was asked for while nothing passed says nothing
        self._best = max(self._best, size)
        self._ceiling = max(self._ceiling, size + 1)
        self._round = [asked for asked in self._round if asked > size]
        if self.state in (PmtuState.BASE, PmtuState.DOUBT) and size < self.size:
            return True  # says that smaller ones pass: `_judge` needs to know, no more
        if size >= self.size or self.state is PmtuState.SILENT:
            self.size, self._confirmed_at = size, now
        if self.state is not PmtuState.SEARCH and self.state is not PmtuState.COMPLETE:
            self._change(_Cause.ANSWER)
        if self.state is PmtuState.COMPLETE:
            self._round, self._due = [], None
        elif not self._round:
            self._due = now
        return True

    def on_refused(self, body: bytes) -> None:
        """The device itself does not take this probe: no use to try again."""
        size = next((size for size in self._outstanding.values() if self._body_size(size) == len(body)), None)
        if size is None:
            return
        self._outstanding = {seq: asked for seq, asked in self._outstanding.items() if asked != size}
        self._ceiling = min(self._ceiling, size)
        # The floor is asked for again: nothing smaller is believed, and what a device takes may change.
        self._round = [asked for asked in self._round if asked < size or asked == FLOOR_MTU]

    # inside

    def _look(self, now: float, count: Callable[[], int]) -> None:
        """Complete: is there traffic to confirm the size for, or is it time to look for a larger one?"""
        if now - self._looked < LOOK_INTERVAL:
            return
        sent = count()
        busy = sent - self._sent - self._own >= self.size // 2
        self._looked, self._sent, self._own = now, sent, 0
        if now >= self._raise_at:
            self._raise_at = now + RAISE_INTERVAL
            self._ceiling = self._limit + 1
            if self.size < self._limit:
                self._change(_Cause.RAISE)
                self._begin({self._limit}, now, first=True)
                return
            busy = True
        if busy:
            self._best = 0
            self._begin({self.size}, now)

    def _judge(self, now: float) -> None:
        """The time of a try is up, or all of it is decided: what does that say, and what is asked next?"""
        if self._tries == 0:
            return
        refused = self._ceiling <= self.size
        match self.state:
            case PmtuState.COMPLETE:
                self._change(_Cause.MISS)
                self._begin({size for size in _MARKS if size < self.size} | {self.size}, now, tries=1)
            case PmtuState.DOUBT if self._best and (refused or self._tries >= SIZE_TRIES):
                if not refused:  # unlucky three times? It is asked for again
                    self._ceiling = self._limit + 1
                self._lower(_Cause.HOLE)
                self._go_on(now)
            case PmtuState.BASE if self._best:
                self._lower(_Cause.ANSWER)
                self._go_on(now)
            case PmtuState.DOUBT if not self._best and self._tries >= SIZE_TRIES:
                self._round = sorted({FLOOR_MTU, self.size})
            case PmtuState.BASE if self._tries >= SIZE_TRIES:
                self._change(_Cause.SILENCE)
                self.size = FLOOR_MTU
                self._round = sorted({FLOOR_MTU, min(BASE_MTU, self._limit)})
            case PmtuState.BASE:
                self._round = [FLOOR_MTU, *self._between(FLOOR_MTU)]
            case PmtuState.SEARCH if self._first or not self._round or self._tries >= SIZE_TRIES:
                if self._round and not self._first:
                    self._ceiling = min(self._ceiling, self._round[0])
                self._go_on(now)
            case _:
                pass  # the same sizes once more

    def _lower(self, cause: _Cause) -> None:
        self._change(cause)
        self.size = self._best
        self._first = False

    def _go_on(self, now: float) -> None:
        """The next round of a search, or its end."""
        sizes = self._between(self.size)
        if sizes:
            self._begin(sizes, now, tries=1 if self._first else 0)
            return
        self._change(_Cause.FOUND)
        self._round, self._due, self._first = [], None, False
        self._raise_at = now + RAISE_INTERVAL

    def _between(self, size: int) -> list[int]:
        """Sizes to try: larger than this one, which passes, and smaller than what does not; none when that is known well enough."""
        marks = [mark for mark in _MARKS if size < mark < min(self._ceiling, self._limit)]
        untried = [self._limit] if size < self._limit < self._ceiling else []
        if not marks and self._ceiling - size > PRECISION:
            step = max(PRECISION, -(-(self._ceiling - size) // _STEPS))
            marks = list(range(size + step, min(self._ceiling, self._limit), step))
        return marks + untried

    def _begin(self, sizes: set[int] | list[int], now: float, *, tries: int = 0, first: bool = False) -> None:
        self._round = sorted(sizes)
        self._tries = tries
        self._first = first
        self._due = now

    def _probe(self, size: int) -> bytes:
        while len(self._outstanding) >= MAX_OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]
        self._outstanding[self._next_seq] = size
        body = encode_control(SizeProbe(self._next_seq, self._body_size(size)))
        self._next_seq = (self._next_seq + 1) & _U32
        self._own += size - self._overhead
        return body

    def _body_size(self, size: int) -> int:
        return size - self._overhead - DATA_OVERHEAD - ENTRY_HEADER_SIZE

    def _forget(self) -> None:
        if self.state in (PmtuState.SEARCH, PmtuState.COMPLETE, PmtuState.DOUBT):
            self._before = self.size
        self._outstanding.clear()
        self._round, self._due, self._first = [], None, False
        self._best = self._tries = self._excuses = 0
        self._confirmed_at = float("-inf")

    def _change(self, cause: _Cause) -> None:
        """The only place where the state changes."""
        after = _TRANSITIONS.get((self.state, cause))
        if after is None:
            raise LocalProtocolError(f"{cause.name} of a path MTU that is {self.state.name}")
        self.state = after
