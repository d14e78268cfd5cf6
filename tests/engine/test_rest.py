"""What comes after a rest goes on at once: the first pump of each port takes one frame, or one read of datagrams."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from meshd.crypto.aead import Suite
from meshd.forward.engine.interface import Engine
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.native.threaded import ThreadedEngine
from meshd.forward.engine.python import QUIET_SECONDS, PythonEngine
from meshd.forward.slots import FIRST_PEER
from meshd.ids import Endpoint, ShortId
from meshd.testing.devices import MemoryFrames, MemoryNetwork
from tests.engine import pair
from tests.engine.reference import arp, capture
from tests.engine.test_native_io import Wire

FRAME = capture(arp())
PEER = FIRST_PEER


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


class Rested:
    """The python engine on memory devices that say they are descriptors, and on a clock that only tests move."""

    def __init__(self, *, direct: bool = True) -> None:
        network = MemoryNetwork()
        self.clock = Clock()
        self.frames = MemoryFrames()
        self.port = network.port(Endpoint("10.0.0.1", 6783))
        self.port.group = False
        for device in (self.frames, self.port):
            device.__dict__["direct"] = direct
        upcalls = pair.ScriptedUpcalls()
        self.engine: Engine = PythonEngine(
            self.frames, [self.port], upcalls, origin=ShortId(bytes(8)), boot=1, clock=self.clock
        )
        # to itself: what is sent comes in
        self.engine.set_path(PEER, self.port.endpoint, 1472)
        self.engine.add_receive_key(1, PEER, Suite.AES_256_GCM, pair.KEY_AB)
        self.engine.set_send_key(PEER, Suite.AES_256_GCM, pair.KEY_AB, 1)
        self.go(FRAME)
        assert len(self.come()) == 1
        self.port.sent.clear()

    def go(self, *captures: bytes) -> list[bool]:
        """What each pump says until the last one."""
        self.frames.to_engine.extend(captures)
        said = [self.engine.pump_frames(pair.NOW)]
        while said[-1]:
            said.append(self.engine.pump_frames(pair.NOW))
        return said

    def come(self) -> list[bytes]:
        while self.engine.pump_datagrams(self.port, pair.NOW):
            pass
        return self.frames.take()

    def rest(self, seconds: float = QUIET_SECONDS * 1.01) -> None:
        self.clock.now += seconds


def test_the_first_frame_goes_alone_and_those_behind_it_together() -> None:
    rested = Rested()
    rested.rest()
    assert rested.go(*[FRAME] * 4) == [True, False]
    assert [len(datagrams) for datagrams in rested.port.sent] == [1, 1]
    assert len(rested.come()) == 4


def test_one_frame_needs_one_read() -> None:
    rested = Rested()
    rested.rest()
    rested.frames.to_engine.append(FRAME)
    assert rested.engine.pump_frames(pair.NOW)
    assert len(rested.port.sent) == 1


def test_each_port_has_a_first_pump_of_its_own() -> None:
    rested = Rested()
    rested.rest()
    rested.go(*[FRAME] * 3)
    rested.frames.to_engine.extend([FRAME] * 2)
    assert rested.engine.pump_datagrams(rested.port, pair.NOW)  # the first of two datagrams
    assert len(rested.frames.take()) == 1
    assert not rested.engine.pump_datagrams(rested.port, pair.NOW)
    assert len(rested.frames.take()) == 2
    assert not rested.engine.pump_frames(pair.NOW)  # it has had its own


@pytest.mark.parametrize("seconds", [0.0, QUIET_SECONDS * 0.99])
def test_without_a_rest_a_pump_takes_all(seconds: float) -> None:
    rested = Rested()
    rested.rest(seconds)
    assert rested.go(*[FRAME] * 4) == [False]
    assert len(rested.port.sent) == 1


def test_a_port_that_holds_frames_back_is_emptied() -> None:
    rested = Rested(direct=False)
    rested.rest()
    assert rested.go(*[FRAME] * 4) == [False]


@pytest.mark.parametrize("engine", [NativeEngine, ThreadedEngine], ids=["loop", "thread"])
def test_so_it_is_in_c(engine: type[NativeEngine]) -> None:
    with ExitStack() as stack:
        wire = Wire(4, engine, stack)
        wire.carry(FRAME)
        before = wire.a.engine.sent(PEER).datagrams_out
        until = time.monotonic() + 2 * QUIET_SECONDS
        while time.monotonic() < until:
            pass
        for _ in range(4):
            wire.a.frames.far.send(FRAME)
        assert wire.a.engine.pump_frames(pair.NOW)
        assert wire.a.engine.sent(PEER).datagrams_out == before + 1
        while wire.a.engine.pump_frames(pair.NOW):
            pass
        assert wire.a.engine.sent(PEER).frames_out == 5
        assert len(wire.b.receive()) == 4
