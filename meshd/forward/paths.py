"""The paths to one peer, and which of them carries its frames: direct, through other hosts, or none.

         a session's handshake came directly, or an endpoint answered
    NONE ─────────────────────────────────────────────────────────────► DIRECT
      ▲  │ a way leads there through others                          dead │ ▲ it answers again, and has for `hold` seconds
      │  └──────────────────────────────────► RELAY ◄────────────────────┘ │
      └─ no way is left ── from any             └──────────────────────────┘

Keys are the peer's, whatever the path: a change of path is a change of address, and no frame is lost for it. A direct path that
died is used again only after HOLD seconds without a lost probe, and after twice as long each time that it died within STEADY
seconds of its return: a path that comes and goes costs at most about one change a minute. Where there is no relay, the direct
path is used as soon as it answers.

The *direct* monitor watches the endpoint in use, or used last. It moves to another one that has proved itself (`candidates`)
when the one in use has a probe unanswered, so a peer behind a NAT that changes its port is followed within two seconds; while
the one in use answers, it stays. The *relay* monitor runs while frames go through others.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from meshd.forward.candidates import Candidates
from meshd.forward.path import PathMonitor, PathState
from meshd.ids import Endpoint

__all__ = ["HOLD", "MAX_HOLD", "QUIET", "SPARE", "STEADY", "PathKind", "PeerPaths"]

HOLD = 5.0  # of good probes before a path that was dead is used again
MAX_HOLD = 60.0
STEADY = 60.0  # after so long in use it counts as one that never died
QUIET = 0.25  # without an echo through a relay: the first probe has had its time
SPARE = 5.0  # an endpoint that answered this lately is moved to at once
_LIVING = (PathState.ALIVE, PathState.SUSPECT)
_LOST = (PathState.IDLE, PathState.DEAD)


@enum.unique
class PathKind(enum.Enum):
    NONE = "none"
    DIRECT = "direct"
    RELAY = "relay"


class PeerPaths:
    """`kind` is what carries frames now, and `since` when it began to. `died`: the last direct path died at this time."""

    def __init__(self) -> None:
        self.direct = PathMonitor()
        self.relay = PathMonitor()
        self.candidates = Candidates()
        self.kind = PathKind.NONE
        self.since: float | None = None
        self.died: float | None = None
        self._hold = 0.0
        self._spare: tuple[Endpoint, float] | None = None

    # what is known

    @property
    def direct_lives(self) -> bool:
        return self.direct.state in _LIVING

    @property
    def relay_lives(self) -> bool:
        return self.kind is PathKind.RELAY and self.relay.state in _LIVING

    @property
    def lives(self) -> bool:
        """Frames arrive, both ways."""
        return self.relay_lives or (self.kind is PathKind.DIRECT and self.direct_lives)

    @property
    def hopeless(self) -> bool:
        """Neither path answers: perhaps it is the keys that the other end has lost."""
        relay_dead = self.kind is not PathKind.RELAY or self.relay.state is PathState.DEAD
        return relay_dead and self.direct.state in _LOST

    def silent(self, now: float) -> bool:
        """As `hopeless`, or soon to be: the direct path has died, and through others nothing has come back either, so far."""
        quiet = self.relay.state is PathState.PROBING and now - (self.relay.since or now) >= QUIET
        return self.hopeless or (self.kind is PathKind.RELAY and quiet and self.direct.state is PathState.DEAD)

    @property
    def in_use(self) -> PathMonitor:
        return self.relay if self.kind is PathKind.RELAY else self.direct

    # what happens

    def handshake_from(self, endpoint: Endpoint, now: float) -> None:
        """The session's keys were made with this endpoint: a beginning, but no reason to leave one that answers."""
        if self.direct.endpoint == endpoint and self.direct.state not in _LOST:
            return
        if self.direct_lives:
            self.candidates.offer(endpoint)
        else:
            self.direct.start(endpoint, now)

    def probe_from(self, endpoint: Endpoint, now: float) -> None:
        """An authentic probe, newer than all before it, came from there."""
        if endpoint == self.direct.endpoint and self.direct.state not in _LOST:
            return
        if self._spare is None or self._spare[0] != endpoint or now - self._spare[1] > SPARE / 2:
            self.candidates.offer(endpoint)
            self.direct.check(now)

    def on_echo(self, seq: int, sent_us: int, heard: int, now: float) -> None:
        """An echo that came directly."""
        proved = self.candidates.on_echo(seq, sent_us)
        if proved is None:
            self.direct.on_echo(seq, sent_us, heard, now)
        elif proved != self.direct.endpoint or not self.direct_lives:
            self._spare = proved, now
            self._move(now)

    def poll(self, known: Sequence[Endpoint], now: float) -> list[tuple[Endpoint, bytes]]:
        """The probes to send directly now."""
        probes = []
        body = self.direct.poll(now)
        self._move(now)
        if body is not None and self.direct.endpoint is not None:
            probes.append((self.direct.endpoint, body))
        self.candidates.search(self.direct.state in _LOST, now)
        probed = self.direct.endpoint if self.direct.state is not PathState.IDLE else None
        others = [endpoint for endpoint in known if endpoint != probed]
        return probes + self.candidates.poll(others, now)

    def choose(self, route: bool, now: float) -> bool:
        """Decide anew. `route`: a way leads there through others. True: it is another one now."""
        kind = self._best(route, now)
        if self.kind is PathKind.DIRECT and self.direct.state is PathState.DEAD:
            self._count_death(now)
        if kind is self.kind:
            return False
        if kind is not PathKind.RELAY and self.relay.state is not PathState.IDLE:
            self.relay.stop(now)
        self.kind, self.since = kind, now
        return True

    def stop(self, now: float) -> None:
        """No session: nothing to probe under."""
        self.candidates.stop()
        for monitor in (self.direct, self.relay):
            if monitor.state is not PathState.IDLE:
                monitor.stop(now)
        self.kind, self.since, self._spare, self._hold = PathKind.NONE, now, None, 0.0

    def next_deadline(self) -> float | None:
        deadlines = [self.direct.next_deadline(), self.relay.next_deadline(), self.candidates.next_deadline()]
        if self.kind is PathKind.RELAY and self.direct.state is PathState.ALIVE:
            deadlines.append(self._ready_at())
        return min((when for when in deadlines if when is not None), default=None)

    # inside

    def _best(self, route: bool, now: float) -> PathKind:
        direct = self.direct.state
        if self.kind is not PathKind.RELAY or not route or self.relay.state not in _LIVING:
            if direct in (*_LIVING, PathState.PROBING):  # probing: the handshake came through there
                return PathKind.DIRECT
        elif direct is PathState.ALIVE and now >= self._ready_at():
            return PathKind.DIRECT
        return PathKind.RELAY if route else PathKind.NONE

    def _ready_at(self) -> float:
        return (self.direct.since or 0.0) + self._hold

    def _count_death(self, now: float) -> None:
        lasted = now - self.since if self.since is not None else STEADY
        self._hold = HOLD if lasted >= STEADY or not self._hold else min(2 * self._hold, MAX_HOLD)
        self.died = now

    def _move(self, now: float) -> None:
        """To an endpoint that has answered, if the one in use does not."""
        if self._spare is None or self.direct.state is PathState.ALIVE:
            return
        endpoint, proved_at = self._spare
        self._spare = None
        if now - proved_at <= SPARE:
            self.direct.move(endpoint, now)
