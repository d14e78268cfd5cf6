"""The sockets behind one port: what goes where, who may share it, and what happens where the kernel cannot."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Literal

import pytest

from meshd.errors import UserError
from meshd.net import steer
from meshd.net.steer import SIDE_BUFFER, open_side_ports
from meshd.net.udp import UdpPort, open_udp_port

HOSTS: dict[Literal[4, 6], str] = {4: "127.0.0.1", 6: "::1"}


@pytest.fixture(params=[4, 6])
def port(request: pytest.FixtureRequest) -> Iterator[UdpPort]:
    family: Literal[4, 6] = request.param
    with contextlib.closing(open_udp_port(family, HOSTS[family], 0)) as port:
        yield port


def send(port: UdpPort, *datagrams: bytes) -> None:
    family = socket.AF_INET6 if port.family == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, (port.local.host, port.local.port))


def received(port: UdpPort) -> list[bytes]:
    found = []
    while (one := port.receive()) is not None:
        found.append(one[0])
    return found


@pytest.fixture
def sides(port: UdpPort) -> Iterator[list[UdpPort]]:
    sides = open_side_ports(port)
    assert len(sides) == 2
    yield sides
    for side in sides:
        side.close()


def test_sealed_types_come_to_the_first_and_all_others_to_the_second(port: UdpPort, sides: list[UdpPort]) -> None:
    datagrams = [bytes((first,)) + b"and more" for first in range(256)]
    send(port, b"", *datagrams)
    sealed = [datagram for datagram in datagrams if datagram[0] & 15 in (4, 8)]
    assert received(port) == sealed
    assert received(sides[0]) == [datagram for datagram in datagrams if datagram not in sealed]
    assert received(sides[1]) == []


def test_members_have_a_socket_for_their_handshakes(port: UdpPort, sides: list[UdpPort]) -> None:
    others = [f"10.0.{number >> 8}.{number & 255}" for number in range(200)] + [f"fd00::{n:x}" for n in range(200)]
    steer.steer(port, [*others, "no address", "127.0.0.1", "::1"])
    send(port, b"\x11handshake", b"\x14data")
    assert (received(port), received(sides[0]), received(sides[1])) == ([b"\x14data"], [], [b"\x11handshake"])
    steer.steer(port, ["127.0.0.1", "::1", *others * 2])  # more than there is room for: the last ones count
    send(port, b"\x11handshake")
    assert (received(port), received(sides[0]), received(sides[1])) == ([], [b"\x11handshake"], [])
    steer.steer(port, ["127.0.0.2", "127.0.0.1%lo", "::2", "fe80::1%lo"])
    send(port, b"\x11handshake")
    assert len(received(sides[1])) == (port.family == 4)


def test_a_flood_fills_one_buffer_and_leaves_the_others(port: UdpPort, sides: list[UdpPort]) -> None:
    for _ in range(SIDE_BUFFER // 100):
        send(port, b"\x11" + bytes(147))
    send(port, b"\x14" + bytes(40))
    steer.steer(port, ["127.0.0.1", "::1"])
    send(port, b"\x11" + bytes(147))
    assert len(received(port)) == 1
    assert 100 < len(received(sides[0])) < SIDE_BUFFER // 100
    assert len(received(sides[1])) == 1


@pytest.mark.usefixtures("sides")
def test_nobody_else_can_have_the_port(port: UdpPort) -> None:
    with pytest.raises(UserError, match="taken by another program"):
        open_udp_port(6 if port.family == 6 else 4, port.local.host, port.local.port)


def test_without_the_kernels_help_everything_comes_to_the_first(port: UdpPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer, "_SO_ATTACH_REUSEPORT_CBPF", 32000)
    assert open_side_ports(port) == []
    send(port, b"\x11one", b"\x14two")
    assert received(port) == [b"\x11one", b"\x14two"]
