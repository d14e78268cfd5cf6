"""Traffic between containers, and what a wire shows of it. Sockets are made in the containers' namespaces and used from here."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from tests.netns.lab import Space, until

__all__ = ["SECONDS", "Capture", "Listener", "Stream", "datagrams_arrive", "groups_reach", "tcp_arrives_whole"]

SECONDS = 20.0
_ETH_P_ALL = 0x0003
_SO_RCVBUFFORCE = 33


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp_arrives_whole(
    source: Space, sink: Space, address: str, size: int = 4_000_000, port: int = 5000, *, options: bytes = b""
) -> None:
    """Send random bytes one way; the other end must have the same. `options`: a hop-by-hop header, in each packet of IPv6."""
    data = random.Random(size).randbytes(size)
    received = hashlib.sha256()
    with sink.socket(_family(address), socket.SOCK_STREAM) as listener, contextlib.ExitStack() as closing:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(SECONDS)
        listener.bind((address, port))
        listener.listen(1)
        sender = closing.enter_context(source.socket(_family(address), socket.SOCK_STREAM))
        sender.settimeout(SECONDS)
        if options:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, options)
        sender.connect((address, port))
        accepted, _ = listener.accept()
        accepted.settimeout(SECONDS)
        closing.enter_context(accepted)

        def send() -> None:
            with contextlib.suppress(OSError):  # the reader tells what is missing
                sender.sendall(data)
                sender.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            while piece := accepted.recv(65536):
                received.update(piece)
        finally:
            thread.join()
    assert received.digest() == hashlib.sha256(data).digest()


def datagrams_arrive(source: Space, sink: Space, address: str, sizes: tuple[int, ...] = (0, 1, 64, 1344, 8000)) -> None:
    """UDP of every size arrives unchanged, those that need fragments too."""
    with (
        sink.socket(_family(address), socket.SOCK_DGRAM) as receiver,
        source.socket(_family(address), socket.SOCK_DGRAM) as sender,
    ):
        receiver.settimeout(SECONDS)
        receiver.bind((address, 5001))
        for size in sizes:
            data = random.Random(size).randbytes(size)
            sender.sendto(data, (address, 5001))
            assert receiver.recv(65536) == data, f"a datagram of {size} bytes"


def groups_reach(source: Space, sinks: list[Space], group: str, marker: bytes) -> None:
    """A datagram to a broadcast or multicast address arrives once at each of the others."""
    with contextlib.ExitStack() as closing:
        receivers = []
        for sink in sinks:
            receiver = closing.enter_context(sink.socket(socket.AF_INET, socket.SOCK_DGRAM))
            receiver.settimeout(SECONDS)
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            receiver.bind(("", 5002))
            if not group.endswith(".255"):
                index = _index(sink)
                member = struct.pack("4s4si", socket.inet_aton(group), socket.inet_aton("0.0.0.0"), index)
                receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            receivers.append(receiver)
        sender = closing.enter_context(source.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        chosen = struct.pack("4s4si", socket.inet_aton("0.0.0.0"), socket.inet_aton("0.0.0.0"), _index(source))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, chosen)
        _wait_for_members(sender, receivers, group)
        sender.sendto(marker, (group, 5002))
        sender.sendto(marker + b" ends", (group, 5002))
        for receiver in receivers:  # the second one shows that the first did not come twice
            assert [receiver.recv(2048), receiver.recv(2048)] == [marker, marker + b" ends"]


def _wait_for_members(sender: socket.socket, receivers: list[socket.socket], group: str) -> None:
    """A membership takes a moment to be known on the sender's host, as it does with any switch that snoops."""
    for receiver in receivers:
        receiver.settimeout(0.1)
        until(partial(_hears, sender, receiver, group), f"a member of {group} hears it")
    for receiver in receivers:
        while _received(receiver):
            pass
        receiver.settimeout(SECONDS)


def _hears(sender: socket.socket, receiver: socket.socket, group: str) -> bool:
    sender.sendto(b"is anybody there?", (group, 5002))
    return bool(_received(receiver))


def _received(receiver: socket.socket) -> bytes:
    try:
        return receiver.recv(2048)
    except TimeoutError:
        return b""


def _index(space: Space) -> int:
    return int(space.ip("-o", "link", "show", "mesh0").partition(":")[0])


@dataclass
class Stream:
    """A numbered datagram every `interval` seconds while the `with` block runs; `lost` says which did not come. The address may be
    for everybody."""

    source: Space
    sink: Space
    address: str
    interval: float = 0.002
    sent: int = 0
    arrived: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._receiver = self.sink.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        self._receiver.bind((self.address, 5003))
        self._receiver.settimeout(1.0)
        self._sender = self.source.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._sender.close()
        self._receiver.close()

    def _send(self) -> None:
        while not self._ended.is_set():
            self._sender.sendto(self.sent.to_bytes(4, "big"), (self.address, 5003))
            self.sent += 1
            time.sleep(self.interval)

    def _receive(self) -> None:
        """Ends when the sender has, and a second was silent."""
        while True:
            try:
                self.arrived.append(int.from_bytes(self._receiver.recv(64), "big"))
            except TimeoutError:
                if self._ended.is_set():
                    return

    @property
    def lost(self) -> list[int]:
        return sorted(set(range(self.sent)) - set(self.arrived))

    @property
    def repeated(self) -> int:
        return len(self.arrived) - len(set(self.arrived))

    def flows(self, more: int = 50) -> None:
        """Wait until further datagrams came."""
        wanted = len(self.arrived) + more
        until(lambda: len(self.arrived) >= wanted, f"{more} more datagrams for {self.address}")


class Listener(abc.ABC):
    """Reads a socket in a thread of its own while the `with` block runs, and closes it."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    @abc.abstractmethod
    def _read(self) -> None:
        """Until `_ended`."""


class Capture(Listener):
    """Every frame that passes a namespace's interfaces."""

    def __init__(self, space: Space) -> None:
        listening = space.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        listening.settimeout(0.1)
        super().__init__(listening)
        self.frames: list[bytes] = []

    def _read(self) -> None:
        while True:
            try:
                self.frames.append(self._socket.recv(65536))
            except TimeoutError:
                if self._ended.is_set():
                    return

    def packets(self, protocol: int) -> Iterator[tuple[str, int, str, int, bytes]]:
        """(source, its port, destination, its port, payload) of the IPv4 packets with this protocol number."""
        for frame in self.frames:
            if frame[12:14] != b"\x08\x00" or frame[23] != protocol:
                continue
            transport = 14 + 4 * (frame[14] & 15)
            header = 8 if protocol == socket.IPPROTO_UDP else 4 * (frame[transport + 12] >> 4)
            source, destination = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
            ports = struct.unpack_from("!HH", frame, transport)
            end = 14 + struct.unpack_from("!H", frame, 16)[0]
            yield source, ports[0], destination, ports[1], frame[transport + header : max(end, transport + header)]
