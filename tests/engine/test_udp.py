"""The UDP port over real loopback sockets: batches both ways, and everything the kernel may refuse."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from meshd.drops import DropReason, Unsent
from meshd.errors import UserError
from meshd.ids import Endpoint
from meshd.net.udp import PASSED_OVER, SOCKET_BUFFER, UdpPort, open_udp_port

WAIT_MS = 5000
Buffer = bytes | bytearray | memoryview
UDP_SEGMENT = 103  # linux/udp.h


@pytest.fixture(params=[4, 6])
def ports(request: pytest.FixtureRequest) -> Iterator[tuple[UdpPort, UdpPort]]:
    host = "127.0.0.1" if request.param == 4 else "::1"
    with ExitStack() as stack:
        opened = [open_udp_port(request.param, host, 0) for _ in range(2)]
        for port in opened:
            stack.callback(port.close)
        yield opened[0], opened[1]


def readable(port: UdpPort) -> bool:
    poll = select.poll()
    poll.register(port.fileno(), select.POLLIN)
    return bool(poll.poll(WAIT_MS))


def datagrams(port: UdpPort, count: int) -> list[bytes]:
    """Wait for so many datagrams."""
    got: list[bytes] = []
    while len(got) < count and readable(port):
        received = port.receive()
        assert received is not None
        data, size, _, _ = received
        got += [bytes(data[at : at + size]) for at in range(0, len(data), size)]
    return got


def test_a_batch_arrives_as_datagrams(ports: tuple[UdpPort, UdpPort]) -> None:
    a, b = ports
    assert a.receive() is None
    sent = [bytes([number]) * 1400 for number in range(45)]
    sent[-1] = b"short"
    assert a.send([part for data in sent for part in (data[:16], data[16:])], 1400, b.local) is None
    assert a.segmenting
    assert datagrams(b, 45) == sent
    assert a.family == b.family == (6 if ":" in b.local.host else 4)


def test_one_datagram_and_where_it_came_from(ports: tuple[UdpPort, UdpPort]) -> None:
    a, b = ports
    assert a.send((b"one", b"two"), 0, b.local) is None
    assert readable(b)
    received = b.receive()
    assert received is not None
    data, size, source, overflow = received
    assert (bytes(data), size, source, overflow) == (b"onetwo", 6, a.local, 0)


def test_buffers_and_path_mtu_are_set(ports: tuple[UdpPort, UdpPort]) -> None:
    sock = ports[0]._socket
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= SOCKET_BUFFER
    level, option = (socket.IPPROTO_IP, 10) if ports[0].family == 4 else (socket.IPPROTO_IPV6, 23)
    assert sock.getsockopt(level, option) == 3
    assert ports[0].grouping


def test_an_empty_datagram_is_passed_over(ports: tuple[UdpPort, UdpPort]) -> None:
    a, b = ports
    a._socket.sendto(b"", b.local)
    a.send((b"x",), 0, b.local)
    assert datagrams(b, 1) == [b"x"]


def test_a_flood_of_empty_datagrams_ends_a_read(ports: tuple[UdpPort, UdpPort]) -> None:
    """Else it could go on for ever in one wake-up of the loop."""
    a, b = ports
    for _ in range(PASSED_OVER):
        a._socket.sendto(b"", b.local)
    a.send((b"x",), 0, b.local)
    assert readable(b)
    assert b.receive() is None
    assert datagrams(b, 1) == [b"x"]


def test_too_big_is_said(ports: tuple[UdpPort, UdpPort]) -> None:
    a, b = ports
    assert a.send((bytes(65_536),), 0, b.local) == Unsent(DropReason.TOO_BIG, 1)


def test_a_closed_port_elsewhere_harms_nobody(ports: tuple[UdpPort, UdpPort]) -> None:
    a, b = ports
    gone = open_udp_port(4 if a.family == 4 else 6, a.local.host, 0)
    nobody = gone.local
    gone.close()
    assert a.send((b"x",), 0, nobody) is None
    assert a.send((b"y",), 0, b.local) is None
    assert datagrams(b, 1) == [b"y"]
    assert a.receive() is None


class Refusing:
    """A socket's sendmsg that answers UDP_SEGMENT, or everything, with errors, one each time; 0: it is sent."""

    def __init__(self, real: Callable[..., int], codes: list[int], only_segmented: bool) -> None:
        self.real, self.codes, self.only_segmented, self.calls = real, codes, only_segmented, 0

    def __call__(self, parts: Sequence[bytes], control: Sequence[object], flags: int, address: Endpoint) -> int:
        self.calls += 1
        if self.codes and (control or not self.only_segmented) and (code := self.codes.pop(0)):
            raise OSError(code, "refused")
        return self.real(parts, control, flags, address)


def refuse(port: UdpPort, *codes: int, only_segmented: bool = False) -> Refusing:
    refusing = Refusing(port._socket.sendmsg, list(codes), only_segmented)
    port._send = refusing
    return refusing


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
def test_without_udp_segment_the_port_cuts_and_remembers(ports: tuple[UdpPort, UdpPort], code: int) -> None:
    a, b = ports
    refusing = refuse(a, code, only_segmented=True)
    assert a.send((b"aaaa", b"bbbb", b"cc"), 4, b.local) is None
    assert not a.segmenting
    assert datagrams(b, 3) == [b"aaaa", b"bbbb", b"cc"]
    assert refusing.calls == 4
    assert a.send((b"aaaa", b"bb"), 4, b.local) is None
    assert refusing.calls == 6
    assert datagrams(b, 2) == [b"aaaa", b"bb"]


class Old(socket.socket):
    """Of a kernel from before UDP_SEGMENT: it does not know the option, and passes over it in a send."""

    def setsockopt(self, *arguments: Any) -> None:
        if arguments[:2] == (socket.IPPROTO_UDP, UDP_SEGMENT):
            raise OSError(errno.ENOPROTOOPT, "no such option")
        super().setsockopt(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        parts, _, *others = arguments
        return super().sendmsg(parts, (), *others)


def test_a_kernel_that_passes_over_udp_segment_is_not_asked_for_it(ports: tuple[UdpPort, UdpPort]) -> None:
    """It would send all as one datagram, or find that too long."""
    _, b = ports
    with Old(socket.AF_INET if b.family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        port = UdpPort(sock)
        assert not port.segmenting
        assert port.send((b"aaaa", b"bb"), 4, b.local) is None
    assert datagrams(b, 2) == [b"aaaa", b"bb"]


def test_a_refusal_that_is_not_about_segmenting_is_not_remembered(ports: tuple[UdpPort, UdpPort]) -> None:
    a, b = ports
    refuse(a, errno.EINVAL, errno.EMSGSIZE)
    assert a.send((b"aaaa", b"bb"), 4, b.local) == Unsent(DropReason.TOO_BIG, 2)
    assert a.segmenting


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EAGAIN, DropReason.QUEUE_FULL),
        (errno.ENOBUFS, DropReason.QUEUE_FULL),
        (errno.EMSGSIZE, DropReason.TOO_BIG),
        (errno.EPERM, DropReason.SEND_FAILED),
    ],
)
def test_why_nothing_was_sent(ports: tuple[UdpPort, UdpPort], code: int, reason: DropReason) -> None:
    a, b = ports
    refuse(a, code)
    assert a.send((b"aaaa", b"bb"), 4, b.local) == Unsent(reason, 2)
    assert a.segmenting


@pytest.mark.parametrize(
    ("codes", "arrive", "unsent"),
    [
        ([0, errno.EPERM, 0, errno.EPERM, 0], b"ace", Unsent(DropReason.SEND_FAILED, 2)),
        ([0, errno.EPERM, 0, errno.ENOBUFS], b"ac", Unsent(DropReason.QUEUE_FULL, 3)),
        ([errno.EPERM], b"", Unsent(DropReason.SEND_FAILED, 5)),
        ([0, 0, 0, 0, errno.EMSGSIZE], b"abcd", Unsent(DropReason.TOO_BIG, 1)),
    ],
)
def test_of_several_some_were_not_sent(
    ports: tuple[UdpPort, UdpPort], codes: list[int], arrive: bytes, unsent: Unsent
) -> None:
    """All that are not are counted; a full queue ends it, as nothing behind would pass."""
    a, b = ports
    a.segmenting = False
    refuse(a, *codes)
    assert a.send((b"aa", b"bb", b"cc", b"dd", b"e"), 2, b.local) == unsent
    assert datagrams(b, len(arrive)) == [bytes([letter]) * (1 if letter == ord("e") else 2) for letter in arrive]


def test_an_old_icmp_is_not_about_this_datagram(ports: tuple[UdpPort, UdpPort]) -> None:
    a, b = ports
    refuse(a, errno.ECONNREFUSED)
    assert a.send((b"x",), 0, b.local) is None
    refuse(a, errno.ENETUNREACH, errno.ENETUNREACH)
    assert a.send((b"x",), 0, b.local) == Unsent(DropReason.SEND_FAILED, 1)
    assert datagrams(b, 1) == [b"x"]


def test_a_port_in_use_is_the_users_to_mend(ports: tuple[UdpPort, UdpPort]) -> None:
    local = ports[0].local
    family = ports[0].family
    with pytest.raises(UserError, match=f"UDP port {local.port} is taken by another program; use --port or stop it"):
        open_udp_port(4 if family == 4 else 6, local.host, local.port)
    with pytest.raises(UserError, match="no address of this host"):
        open_udp_port(4 if family == 4 else 6, "192.0.2.1" if family == 4 else "2001:db8::1", 0)
    with pytest.raises(UserError, match="no address of this host"):
        open_udp_port(6, "fe80::1%no-such", 0)
