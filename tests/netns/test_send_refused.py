"""A firewall of this host refuses some of the datagrams that go out one by one: the others go out, and the loss has its name."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import cast

import pytest

from meshd.drops import DropReason, Unsent
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.native.threaded import ThreadedEngine
from meshd.forward.engine.python import PythonEngine
from tests.engine.pair import PEER
from tests.engine.reference import cut, super_frame, tcp
from tests.engine.test_native_io import SO_NO_CHECK, Wire
from tests.netns.capture_helpers import Space

PACKET, SIZE = tcp(bytes(30_000)), 1306
SEGMENTS = cut(PACKET, SIZE)


def refuse(host: Space, port: int, numbers: str) -> None:
    """Of each eight that go there, counted from 0."""
    host.command("nft", "add table ip refusing")
    host.command("nft", "add chain ip refusing out { type filter hook output priority 0; }")
    host.command("nft", f"add rule ip refusing out udp dport {port} numgen inc mod 8 {{ {numbers} }} drop")


def test_one_that_is_refused_costs_none_behind_it(host: Space) -> None:
    with ExitStack() as stack:
        wire = host.run(lambda: Wire(4, NativeEngine, stack))
        wire.warm()
        wire.a.port._socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)  # and so no UDP_SEGMENT
        assert wire.carry(super_frame(PACKET, SIZE)) == SEGMENTS
        before = wire.a.engine.sent(PEER).datagrams_out
        refuse(
            host, wire.b.port.local.port, "5, 6"
        )  # one that is refused is sent once more: at the second time it is given up
        passed = [segment for number, segment in enumerate(SEGMENTS) if number % 7 != 5]
        assert wire.carry(super_frame(PACKET, SIZE)) == passed
        assert wire.a.engine.sent(PEER).datagrams_out - before == len(passed)
        assert wire.a.engine.drops.as_dict() == {"send_failed": len(SEGMENTS) - len(passed)}


@pytest.mark.parametrize("kind", [NativeEngine, ThreadedEngine, PythonEngine])
def test_what_the_device_does_not_take_is_too_big(host: Space, kind: type[PythonEngine]) -> None:
    """The device has shrunk, and the path's size is not known yet."""
    with ExitStack() as stack:
        wire = host.run(lambda: Wire(4, cast(type[NativeEngine], kind), stack))
        wire.warm()
        host.command("ip", *["link", "set", "lo", "mtu", "1300"])
        wire.a.send(super_frame(PACKET, SIZE))
        wire.a.send(super_frame(tcp(bytes(SIZE)), SIZE))
        assert wire.a.engine.drops.as_dict() == {"too_big": len(SEGMENTS) + 1}
        host.command("ip", *["link", "set", "lo", "mtu", "65536"])
        assert wire.carry(super_frame(PACKET, SIZE)) == SEGMENTS


def test_the_python_engine_counts_them(host: Space) -> None:
    with ExitStack() as stack:
        wire = host.run(lambda: Wire(4, cast(type[NativeEngine], PythonEngine), stack))
        wire.warm()
        wire.a.port.segmenting = False
        before = wire.a.engine.sent(PEER).datagrams_out
        refuse(host, wire.b.port.local.port, "5")
        passed = [segment for number, segment in enumerate(SEGMENTS) if number % 8 != 5]
        assert wire.carry(super_frame(PACKET, SIZE)) == passed
        assert wire.a.engine.sent(PEER).datagrams_out - before == len(passed)
        assert wire.a.engine.drops.as_dict() == {"send_failed": len(SEGMENTS) - len(passed)}


def test_nor_where_python_sends(host: Space) -> None:
    with ExitStack() as stack:
        wire = host.run(lambda: Wire(4, NativeEngine, stack))
        sender, receiver = wire.a.port, wire.b.port
        sender.segmenting = False
        refuse(host, receiver.local.port, "5")
        data = [bytes([number]) * 100 for number in range(20)]
        assert sender.send(data, 100, receiver.local) == Unsent(DropReason.SEND_FAILED, 2)
        got: list[bytes] = []
        while (received := receiver.receive()) is not None:
            got.append(received[0])
        assert got == [one for number, one in enumerate(data) if number % 8 != 5]
