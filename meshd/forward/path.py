"""Liveness of one path: whether what we send to a peer through one endpoint arrives, and what it costs.

Sans-IO: `poll` gives the probe to send now, `next_deadline` says when to ask again, `on_probe` answers the peer's probes,
`on_echo` takes its answers to ours. Any authenticated datagram shows that we *hear* the peer; that the path is ALIVE, both
ways, only an echo shows.

               start                 echo
    IDLE ──────────────▶ PROBING ──────────────▶ ALIVE ◀──────┐
     ▲                      │                      │ miss     │ echo
     │ stop, from any       │ 8 misses             ▼          │        move, from any: ALIVE
     │                      └───────▶ DEAD ◀──── SUSPECT ─────┤
     │                                 │    8 misses          │
     │ start, from any: PROBING        └──────────────────────┘

A used path is probed every second, and every 250 ms once a probe has not been answered within max(250 ms, 2·SRTT). 8
unanswered in a row and it is DEAD, 2 s after the first of them left; it is still probed every second and an echo revives it.
Only echoes of the last 8 probes count, and of a dead path only of those that were sent since: an older or unknown one is
counted, no more. An echo that is late but among these does count, or a path whose delay has jumped would be dead. Round trips
are measured by our own note of when the probe left; SRTT and RTTVAR as in RFC 6298 § 2.

A monitor that was itself asked too late (Lifeguard, DSN 2018: a slow member distrusts its own suspicion) excuses the probes
whose time ran out meanwhile: their echoes may wait in the socket, unread. A few times in a row; a host that is always late
must still find dead paths.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from meshd.errors import LocalProtocolError
from meshd.forward.control import Echo, Probe, encode_control
from meshd.forward.cost import WORST_COST, next_cost
from meshd.ids import Endpoint

__all__ = [
    "DEAD_AFTER",
    "FAST_INTERVAL",
    "LATE",
    "MAX_EXCUSES",
    "PROBE_INTERVAL",
    "PROBE_WINDOW",
    "PathChange",
    "PathMonitor",
    "PathState",
    "PathView",
]

PROBE_INTERVAL = 1.0
FAST_INTERVAL = 0.25  # while a probe is unanswered; also the least time an answer is given
DEAD_AFTER = 8  # unanswered in a row
PROBE_WINDOW = 64  # probes that the loss is taken over
LATE = 0.5  # so late a `poll` excuses what it missed
MAX_EXCUSES = 4  # late polls in a row that are excused
MAX_CHANGES = 16
_U32 = 0xFFFF_FFFF


@enum.unique
class PathState(enum.Enum):
    IDLE = "idle"  # not used, not probed
    PROBING = "probing"  # no answer yet
    ALIVE = "alive"
    SUSPECT = "suspect"  # was alive, a probe is unanswered
    DEAD = "dead"


@enum.unique
class _Cause(enum.Enum):
    START = enum.auto()
    STOP = enum.auto()
    MOVE = enum.auto()  # another endpoint has answered
    ECHO = enum.auto()  # one that counts
    MISS = enum.auto()
    LAST_MISS = enum.auto()  # the 8th in a row, and each one after it


_TRANSITIONS: dict[tuple[PathState, _Cause], PathState] = {
    (PathState.IDLE, _Cause.START): PathState.PROBING,
    (PathState.PROBING, _Cause.START): PathState.PROBING,
    (PathState.ALIVE, _Cause.START): PathState.PROBING,
    (PathState.SUSPECT, _Cause.START): PathState.PROBING,
    (PathState.DEAD, _Cause.START): PathState.PROBING,
    (PathState.IDLE, _Cause.STOP): PathState.IDLE,
    (PathState.PROBING, _Cause.STOP): PathState.IDLE,
    (PathState.ALIVE, _Cause.STOP): PathState.IDLE,
    (PathState.SUSPECT, _Cause.STOP): PathState.IDLE,
    (PathState.DEAD, _Cause.STOP): PathState.IDLE,
    (PathState.IDLE, _Cause.MOVE): PathState.ALIVE,
    (PathState.PROBING, _Cause.MOVE): PathState.ALIVE,
    (PathState.ALIVE, _Cause.MOVE): PathState.ALIVE,
    (PathState.SUSPECT, _Cause.MOVE): PathState.ALIVE,
    (PathState.DEAD, _Cause.MOVE): PathState.ALIVE,
    (PathState.PROBING, _Cause.ECHO): PathState.ALIVE,
    (PathState.ALIVE, _Cause.ECHO): PathState.ALIVE,
    (PathState.SUSPECT, _Cause.ECHO): PathState.ALIVE,
    (PathState.DEAD, _Cause.ECHO): PathState.ALIVE,
    (PathState.PROBING, _Cause.MISS): PathState.PROBING,
    (PathState.ALIVE, _Cause.MISS): PathState.SUSPECT,
    (PathState.SUSPECT, _Cause.MISS): PathState.SUSPECT,
    (PathState.PROBING, _Cause.LAST_MISS): PathState.DEAD,
    (PathState.SUSPECT, _Cause.LAST_MISS): PathState.DEAD,
    (PathState.DEAD, _Cause.LAST_MISS): PathState.DEAD,
}


@dataclass(slots=True, frozen=True, kw_only=True)
class PathChange:
    """The state or the cost class changed."""

    endpoint: Endpoint | None
    before: PathState
    state: PathState
    cost: int
    at: float


@dataclass(slots=True, frozen=True, kw_only=True)
class PathView:
    """One path as `status` shows it. Times are `now`s, None: never; `srtt`, `rttvar` are seconds."""

    endpoint: Endpoint | None
    state: PathState
    since: float | None
    srtt: float | None
    rttvar: float | None
    loss: float
    cost: int
    last_heard: float | None
    last_echo: float | None
    misses: int
    sent: int
    heard: int  # probes of the peer that came in
    peer_heard: int  # probes of ours that came in there, as the peer last said
    stale_echoes: int


class _Probe:
    __slots__ = ("answered", "at", "excused", "lost", "seq")

    def __init__(self, seq: int, at: float) -> None:
        self.seq = seq
        self.at = at
        self.answered = self.lost = self.excused = False

    @property
    def open(self) -> bool:
        return not (self.answered or self.lost or self.excused)


class PathMonitor:
    """One peer through one endpoint. `sent` times on the wire are microseconds of our own clock; only we read them."""

    def __init__(self) -> None:
        self.state = PathState.IDLE
        self.endpoint: Endpoint | None = None
        self._cost: int | None = None  # not graded yet
        self._since: float | None = None
        self._window: deque[_Probe] = deque(maxlen=PROBE_WINDOW)  # consecutive numbers, since start or death
        self._next_seq = 1  # goes on over starts, so that an echo from another endpoint fits nothing
        self._due = 0.0  # the first probe after a start
        self._early = float("inf")  # a probe out of turn
        self._srtt: float | None = None
        self._rttvar: float | None = None
        self._misses = 0
        self._newest_answer = float("-inf")  # when the newest answered probe was sent
        self._excuses = 0
        self._last_heard: float | None = None
        self._last_echo: float | None = None
        self._sent = self._heard = self._peer_heard = self._stale_echoes = 0
        self._changes: deque[PathChange] = deque(maxlen=MAX_CHANGES)

    def start(self, endpoint: Endpoint | None, now: float) -> None:
        """Use the path through this endpoint (None: through other hosts): probe at once. What was measured before is forgotten."""
        self._forget()
        self.endpoint = endpoint
        self._due = now
        self._change(_Cause.START, now)

    def move(self, endpoint: Endpoint, now: float) -> None:
        """This endpoint has answered a probe that was not this monitor's own: the path leads through it from now on."""
        self._forget()
        self.endpoint = endpoint
        self._due = now
        self._change(_Cause.MOVE, now)

    def check(self, now: float) -> None:
        """There is reason to doubt: probe as soon as FAST_INTERVAL allows."""
        if self._window and self.state in (PathState.ALIVE, PathState.SUSPECT):
            self._early = max(now, self._window[-1].at + FAST_INTERVAL)

    def stop(self, now: float) -> None:
        """The path is not used: no probes; those of the peer are still answered."""
        self._forget()
        self._change(_Cause.STOP, now)

    # time

    def next_deadline(self) -> float | None:
        """When `poll` has something to do; None while idle."""
        if self.state is PathState.IDLE:
            return None
        return min([self._next_probe(), *(probe.at + self._timeout() for probe in self._window if probe.open)])

    def poll(self, now: float) -> bytes | None:
        """Judge probes whose time is up; the body of a probe to send to `endpoint` now, alone in its datagram, or None."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return None
        self._excuses = self._excuses + 1 if now - deadline > LATE else 0
        timeout = self._timeout()
        for probe in [probe for probe in self._window if probe.open and now >= probe.at + timeout]:
            self._judge(probe, now)
        return self._probe(now) if now >= self._next_probe() else None

    # what comes in

    def on_heard(self, now: float) -> None:
        """Any authenticated datagram came in on this path."""
        self._last_heard = now

    def on_probe(self, seq: int, sent_us: int, heard: int, now: float) -> bytes:
        """The body of the echo to send back at once."""
        self.on_heard(now)
        self._heard = (self._heard + 1) & _U32
        self._peer_heard = heard
        return encode_control(Echo(seq, sent_us, self._heard))

    def on_echo(self, seq: int, sent_us: int, heard: int, now: float) -> bool:
        """Whether it answers one of the last 8 probes of this path; one that does not is only counted."""
        self.on_heard(now)
        age = (self._next_seq - seq) & _U32
        probe = self._window[-age] if 1 <= age <= min(DEAD_AFTER, len(self._window)) else None
        if probe is None or probe.answered or sent_us != _microseconds(probe.at):
            self._stale_echoes += 1
            return False
        while self.state is PathState.DEAD and self._window[0] is not probe:
            self._window.popleft()  # an outage is no loss: a revived path is judged by what it does from now on
        probe.answered, probe.lost = True, False
        self._peer_heard = heard
        self._last_echo = now
        self._misses = 0
        self._newest_answer = max(self._newest_answer, probe.at)
        if not probe.excused:  # or the time in which we were not asked would count as the path's
            self._measure(max(0.0, now - probe.at))
        self._change(_Cause.ECHO, now)
        return True

    # what people and routes see

    @property
    def srtt(self) -> float | None:
        return self._srtt

    @property
    def since(self) -> float | None:
        """When the state became what it is."""
        return self._since

    @property
    def cost(self) -> int:
        """The cost class, 0 to 3; the worst until there was an echo."""
        return WORST_COST if self._cost is None else self._cost

    @property
    def loss(self) -> float:
        """The lost part of the last 64 probes that are decided, since the start or the death of the path, 0.0 to 1.0."""
        lost, decided = self._tally()
        if not decided:
            return 1.0 if self.state is PathState.DEAD else 0.0
        return lost / decided

    def next_event(self) -> PathChange | None:
        return self._changes.popleft() if self._changes else None

    def view(self) -> PathView:
        return PathView(
            endpoint=self.endpoint,
            state=self.state,
            since=self._since,
            srtt=self._srtt,
            rttvar=self._rttvar,
            loss=self.loss,
            cost=self.cost,
            last_heard=self._last_heard,
            last_echo=self._last_echo,
            misses=self._misses,
            sent=self._sent,
            heard=self._heard,
            peer_heard=self._peer_heard,
            stale_echoes=self._stale_echoes,
        )

    # inside

    def _timeout(self) -> float:
        return FAST_INTERVAL if self._srtt is None else max(FAST_INTERVAL, 2 * self._srtt)

    def _next_probe(self) -> float:
        if not self._window:
            return self._due
        fast = self._misses > 0 and self.state is not PathState.DEAD
        return min(self._early, self._window[-1].at + (FAST_INTERVAL if fast else PROBE_INTERVAL))

    def _probe(self, now: float) -> bytes:
        body = encode_control(Probe(self._next_seq, _microseconds(now), self._heard))
        self._window.append(_Probe(self._next_seq, now))
        self._early = float("inf")
        self._next_seq = (self._next_seq + 1) & _U32
        self._sent += 1
        return body

    def _judge(self, probe: _Probe, now: float) -> None:
        if 0 < self._excuses <= MAX_EXCUSES:
            probe.excused = True
            return
        probe.lost = True
        if probe.at < self._newest_answer:
            return  # a later one came through: a loss, but not one of a row
        self._misses += 1
        self._change(_Cause.MISS if self._misses < DEAD_AFTER else _Cause.LAST_MISS, now)

    def _measure(self, rtt: float) -> None:
        """RFC 6298 § 2.2 and 2.3. Of an echo that is later than expected at most twice the time that it was given.

        A peer that stood still answers all that waits at once, and with what that seems to say a path that dies next would live on
        for many seconds.
        """
        if self._srtt is None or self._rttvar is None:
            self._srtt, self._rttvar = rtt, rtt / 2
        else:
            rtt = min(rtt, 2 * self._timeout())
            self._rttvar += (abs(self._srtt - rtt) - self._rttvar) / 4
            self._srtt += (rtt - self._srtt) / 8

    def _tally(self) -> tuple[int, int]:
        lost = sum(probe.lost for probe in self._window)
        return lost, lost + sum(probe.answered for probe in self._window)

    def _forget(self) -> None:
        self._window.clear()
        self._srtt = self._rttvar = None
        self._cost = None
        self._early = float("inf")
        self._misses = self._excuses = 0
        self._newest_answer = float("-inf")

    def _change(self, cause: _Cause, now: float) -> None:
        """The only place where the state changes."""
        before, cost = self.state, self.cost
        after = _TRANSITIONS.get((before, cause))
        if after is None:
            raise LocalProtocolError(f"{cause.name} of a path that is {before.name}")
        self.state = after
        if after is not before or cause in (_Cause.START, _Cause.MOVE):
            self._since = now
            if after is PathState.DEAD:
                self._due = now + PROBE_INTERVAL
                self._window.clear()
        if cause is _Cause.ECHO:
            self._grade()
        if after is not before or self.cost != cost or cause is _Cause.MOVE:
            self._changes.append(PathChange(endpoint=self.endpoint, before=before, state=after, cost=self.cost, at=now))

    def _grade(self) -> None:
        if self._srtt is not None:
            lost, _ = self._tally()
            # over the whole window even before it is full: one lost of two is no loss of 50 %
            self._cost = next_cost(self._cost, self._srtt, lost / PROBE_WINDOW)


def _microseconds(now: float) -> int:
    return int(now * 1e6) & 0xFFFF_FFFF_FFFF_FFFF
