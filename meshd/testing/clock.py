"""Virtual time: a heap of deadlines and the moment that the whole simulation agrees on.

Nothing waits: `run_until` jumps from one deadline to the next and calls what is due. Callbacks of the same moment run in the
order in which they were asked for, so a run depends on nothing but its inputs. A callback may ask for further ones, also for
this very moment; a loop of those is cut off by MAX_AT_ONCE, since time would stand still for ever. What a callback raises
ends the run and reaches the test.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from meshd.errors import LocalProtocolError

__all__ = ["MAX_AT_ONCE", "Timer", "VirtualClock"]

MAX_AT_ONCE = 1_000_000  # callbacks at one moment


class Timer:
    """One call to come. `cancel` is final and may be repeated; a cancelled or past timer does nothing."""

    __slots__ = ("_callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def cancel(self) -> None:
        self._callback = None

    def run(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class VirtualClock:
    """Starts at `now`, which is no special number: code must not take a monotonic clock to start at 0."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._heap: list[tuple[float, int, Timer]] = []  # when, order of asking: these are never equal
        self._order = 0
        self.calls = 0  # callbacks that have run

    @property
    def now(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call once at `when`; what is past is called at this moment, after all that is due already."""
        self._order += 1
        timer = Timer(max(when, self._now), callback)
        heapq.heappush(self._heap, (timer.when, self._order, timer))
        return timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self.call_at(self._now + delay, callback)

    def next_deadline(self) -> float | None:
        """When the next callback is due; None: nothing will ever happen again by itself."""
        while self._heap and not self._heap[0][2].pending:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def step(self) -> bool:
        """Go to the next deadline and run one callback; False: there is none."""
        if self.next_deadline() is None:
            return False
        self._now, _, timer = heapq.heappop(self._heap)
        self.calls += 1
        timer.run()
        return True

    def run_until(self, when: float) -> None:
        """Run all that is due up to and at `when`; afterwards it is `when`."""
        self._run(lambda: False, when)

    def run_for(self, seconds: float) -> None:
        self.run_until(self._now + seconds)

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> float | None:
        """Run until the condition holds, asked before the first callback and after each; the seconds that took.

        None: it did not hold within the timeout; then exactly that much time has passed.
        """
        start = self._now
        return self._now - start if self._run(condition, start + timeout) else None

    def _run(self, condition: Callable[[], bool], end: float) -> bool:
        moment, at_once = self._now, 0
        while not condition():
            due = self.next_deadline()
            if due is None or due > end:
                self._now = max(self._now, end)
                return False
            at_once = at_once + 1 if due == moment else 1
            moment = due
            if at_once > MAX_AT_ONCE:
                raise LocalProtocolError(f"time stands still at {moment}: more than {MAX_AT_ONCE} calls")
            self.step()
        return True
