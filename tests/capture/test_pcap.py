"""The port of pcap mode over a played libpcap: what is skipped and counted, what comes back, what went wrong."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pytest

from meshd.capture.pcap import ECHO_S, MAX_SOURCES, Offload, PcapPort, underlay_filter
from meshd.ids import parse_mac

VNET = bytes(10)
FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + b"payload"
OTHER = bytes.fromhex("ffffffffffff 020000000002 88b5") + b"payload"
Buffer = bytes | bytearray | memoryview


class Handle:
    """A libpcap handle: what is put into `incoming` is captured; one end of a socket pair takes what is sent."""

    def __init__(self) -> None:
        self.incoming: deque[bytes | Exception] = deque()
        self.cut_off = 0  # bytes that the wire had and the snapshot has not
        self.dropped = 0
        self.ours, self.wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire.setblocking(False)

    def getfd(self) -> int:
        return self.ours.fileno()

    def next(self) -> tuple[Handle | None, bytes]:
        if not self.incoming:
            return None, b""
        item = self.incoming.popleft()
        if isinstance(item, Exception):
            raise item
        self.length = len(item) + self.cut_off
        return self, item

    def getlen(self) -> int:
        return self.length

    def stats(self) -> tuple[int, int, int]:
        if not self.getfd() > 0:
            raise ValueError("closed")
        return (9, self.dropped, 0)

    def close(self) -> None:
        self.ours.close()

    def sent(self) -> list[bytes]:
        frames = []
        try:
            while True:
                frames.append(self.wire.recv(65536))
        except BlockingIOError:
            return frames


def with_vnet(frame: bytes, mtu: int, limit: int) -> bytearray | None:
    return None if b"train" in frame else bytearray(VNET + frame)


def finished(parts: Sequence[Buffer], mtu: int) -> list[Buffer]:
    return [b"".join(parts)[len(VNET) :]]


@pytest.fixture
def handle() -> Iterator[Handle]:
    made = Handle()
    yield made
    made.close()
    made.wire.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def port(handle: Handle) -> PcapPort:
    return PcapPort(handle, "lo", socket.if_nametoindex("lo"), 1500, 1372, Offload(with_vnet, finished))


def read(port: PcapPort) -> bytes | None:
    data = port.read()
    return None if data is None else bytes(data)


def test_frames_come_with_a_vnet_header_and_go_without(port: PcapPort, handle: Handle) -> None:
    handle.incoming.append(FRAME)
    assert read(port) == VNET + FRAME
    assert read(port) is None
    assert port.write((VNET, OTHER[:14], OTHER[14:]))
    assert handle.sent() == [OTHER]
    assert port.drops.as_dict() == {}


def test_what_cannot_be_carried_is_counted_and_the_next_one_read(port: PcapPort, handle: Handle) -> None:
    handle.incoming.extend([FRAME + b"train", FRAME])
    assert read(port) == VNET + FRAME
    handle.cut_off = 1
    handle.incoming.append(FRAME)
    assert read(port) is None
    assert port.drops.as_dict() == {"too_big": 2}


def test_what_we_sent_is_no_sight_of_its_sender(port: PcapPort, handle: Handle, now: list[float]) -> None:
    port.write((VNET, FRAME))
    handle.incoming.extend([FRAME, FRAME + b"changed", OTHER])
    assert read(port) == VNET + OTHER
    assert port.drops.as_dict() == {"capture_echo": 2}
    now[0] += ECHO_S
    handle.incoming.append(FRAME)
    assert read(port) == VNET + FRAME  # nothing from there for a second: it has moved here


def test_the_sources_that_are_remembered_are_the_latest(port: PcapPort, handle: Handle, now: list[float]) -> None:
    def frame(number: int) -> bytes:
        return FRAME[:6] + number.to_bytes(6, "big") + FRAME[12:]

    for number in range(MAX_SOURCES):
        port.write((VNET, frame(number)))
        handle.sent()
    port.write((VNET, frame(0)))  # again: the oldest is now 1
    port.write((VNET, frame(MAX_SOURCES)))
    handle.incoming.extend([frame(0), frame(1)])
    assert read(port) == VNET + frame(1)


def test_a_flood_of_what_is_skipped_ends_the_read(port: PcapPort, handle: Handle) -> None:
    handle.incoming.extend([FRAME + b"train"] * 1000)
    assert read(port) is None
    assert len(handle.incoming) > 900


def test_an_interface_that_is_down_and_one_that_is_gone(port: PcapPort, handle: Handle) -> None:
    handle.incoming.append(RuntimeError("The interface went down"))
    with pytest.raises(OSError, match="went down") as down:
        port.read()
    assert down.value.errno == errno.ENETDOWN
    port.index = 1 << 30
    assert not port.there
    handle.incoming.append(RuntimeError("The interface went down"))
    with pytest.raises(OSError, match="went down") as gone:
        port.read()
    assert gone.value.errno == errno.ENODEV


@pytest.mark.parametrize(
    ("code", "answer", "counted"),
    [
        (errno.EMSGSIZE, True, {"too_big": 1}),
        (errno.ENETDOWN, False, {}),
        (errno.ENXIO, False, {}),
        (errno.EAGAIN, False, {}),
        (errno.ENOBUFS, False, {}),
    ],
)
def test_what_the_interface_does_not_take(
    port: PcapPort, monkeypatch: pytest.MonkeyPatch, code: int, answer: bool, counted: dict[str, int]
) -> None:
    monkeypatch.setattr(os, "write", _raise(code))
    assert port.write((VNET, FRAME)) is answer
    assert port.drops.as_dict() == counted


def test_a_runt_is_the_frames_fault(port: PcapPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", _raise(errno.EINVAL))
    with pytest.raises(OSError, match="Invalid"):
        port.write((VNET, b"runt"))


def _raise(code: int) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


def test_closing_twice_and_the_kernels_count(port: PcapPort, handle: Handle) -> None:
    handle.dropped = 3
    assert port.kernel_dropped() == 3
    port.close()
    port.close()
    assert port.kernel_dropped() == 0
    assert not port.there
    with pytest.raises(OSError, match="Bad file"):
        port.write((VNET, FRAME))


def test_the_filter_is_one_that_libpcap_takes() -> None:
    import pcapy

    mac = parse_mac("02:00:00:00:00:01")
    for addresses in ([], ["10.0.0.1"], ["10.0.0.1", "fe80::1"]):
        text = underlay_filter(mac, addresses, 6783)
        program = pcapy.compile(pcapy.DLT_EN10MB, 65535, text, 1, 0)
        assert program.filter(OTHER)
        assert not program.filter(bytes(mac) + OTHER[6:])
