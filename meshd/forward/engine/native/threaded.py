"""ThreadedEngine: the native engine whose pumps run in a thread of C's own (`--pump thread`).

The thread waits for the descriptors itself and moves every hit, whatever the loop is busy with. Misses it copies into queues
(`upcalls.c`), and the loop takes them from there with the same Python code that the pumps of the other engines call at once.
`thread.c` has the lock: every call that the node makes holds it, so tables, nonces and replay windows have one owner at a time, and
a change of them is in force for the next frame. Handshakes are read without it: they take long and touch no table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from meshd.errors import LocalProtocolError
from meshd.forward.engine.interface import DatagramPort, FramePort, Mirror, Upcalls
from meshd.forward.engine.native import _core
from meshd.forward.engine.native.engine import NativeEngine, descriptor
from meshd.forward.engine.python import PUMP_SECONDS
from meshd.ids import Address

__all__ = ["ThreadedEngine"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _held(
    method: Callable[Concatenate[NativeEngine, _P], _R],
) -> Callable[Concatenate[ThreadedEngine, _P], _R]:
    @functools.wraps(method)
    def call(self: ThreadedEngine, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        self.core.hold()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.core.release()

    return call


class ThreadedEngine(NativeEngine):
    """See `interface.Engine`. Before `start` and after `stop` its pumps may be called like those of others: they queue, too."""

    _queues = True

    def _asked(self, upcalls: Upcalls) -> Upcalls:
        return _Unheld(upcalls, self.core)

    # who pumps

    def start(self) -> int:
        """Raises LocalProtocolError where a port has no descriptor, OSError where the kernel refuses a thread."""
        if min(descriptor(self._frames), *(descriptor(port) for port in self._ports)) < 0:
            raise LocalProtocolError("a thread can only pump what has a descriptor")
        return self.core.start_pump(descriptor(self._frames))

    def stop(self) -> None:
        self.core.stop_pump()

    def pump_until(self, now: float) -> None:
        self.core.pump_until(now)

    def drop_frames(self) -> None:
        self.core.watch_frames(-1)

    def replace_frames(self, frames: FramePort) -> None:
        super().replace_frames(frames)
        self.core.watch_frames(descriptor(frames))

    def take_upcalls(self, now: float) -> bool:
        self._now = now
        core, clock, deadline = self.core, self._clock, self._clock() + PUMP_SECONDS
        try:
            while core.take_upcall(self, now):
                if clock() >= deadline:
                    return True
        finally:
            self._flush()
        return False

    def pump_frames(self, now: float) -> bool:
        self._now = now
        frames = self._frames
        more = self.core.pump_frames(self, frames, descriptor(frames), now)
        return self.take_upcalls(now) or more

    def pump_datagrams(self, port: DatagramPort, now: float) -> bool:
        self._now = now
        number, frames = self._numbers[port.family], self._frames
        more = self.core.pump_datagrams(self, frames, descriptor(frames), number, now)
        return self.take_upcalls(now) or more

    def set_mirror(self, mirror: Mirror | None) -> None:
        super().set_mirror(mirror)
        self.core.set_mirrored(mirror is not None)

    # everything else that the node calls

    set_send_key = _held(NativeEngine.set_send_key)
    drop_send_key = _held(NativeEngine.drop_send_key)
    set_path = _held(NativeEngine.set_path)
    add_receive_key = _held(NativeEngine.add_receive_key)
    drop_receive_key = _held(NativeEngine.drop_receive_key)
    void_flows = _held(NativeEngine.void_flows)
    void_routes = _held(NativeEngine.void_routes)
    send_frame = _held(NativeEngine.send_frame)
    send_control = _held(NativeEngine.send_control)
    send_datagram = _held(NativeEngine.send_datagram)
    send_relayed = _held(NativeEngine.send_relayed)
    sent = _held(NativeEngine.sent)
    peer_counters = _held(NativeEngine.peer_counters)
    sources = _held(NativeEngine.sources)
    flows = _held(NativeEngine.flows)
    _flush = _held(NativeEngine.flush)


class _Unheld:
    """The node's upcalls; what takes long and touches no table of the engine runs without the lock."""

    def __init__(self, upcalls: Upcalls, core: _core.Core) -> None:
        self._upcalls = upcalls
        self._core = core
        self.decide_outbound = upcalls.decide_outbound
        self.decide_inbound = upcalls.decide_inbound
        self.flood_children = upcalls.flood_children
        self.group_members = upcalls.group_members
        self.inspect = upcalls.inspect
        self.session_wanted = upcalls.session_wanted
        self.key_confirmed = upcalls.key_confirmed
        self.receive_control = upcalls.receive_control
        self.relay_next = upcalls.relay_next

    def receive_handshake(self, data: memoryview, source: Address, now: float) -> None:
        self._core.release()
        try:
            self._upcalls.receive_handshake(data, source, now)
        finally:
            self._core.hold()
