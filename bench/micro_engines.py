"""Engines between memory devices, for bench.micro: one that only seals, one that only opens, and what passes between them.

`engines()` lists those that this meshd has. The native one calls the methods of memory devices as the python one does, once a
super-frame, so what is timed is the packet path without the kernel's part.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.one_peer import OnePeer
from meshd.crypto.aead import Suite, new_aead
from meshd.drops import Unsent
from meshd.forward.checksum import ipv4_header_checksum
from meshd.forward.engine.interface import Buffer, Engine
from meshd.forward.engine.native import native_missing
from meshd.forward.engine.python import PythonEngine
from meshd.forward.slots import FIRST_PEER
from meshd.forward.vnet import VNET_SIZE
from meshd.ids import Endpoint, ShortId

__all__ = [
    "DATAGRAM",
    "SEGMENTS",
    "SEGMENT_PAYLOAD",
    "SUPER_FRAMES",
    "EngineKind",
    "engines",
    "packet_path",
    "super_frame",
]

SEGMENT_PAYLOAD = 1320  # MTU 1372 less the headers of IPv4 and of TCP with time stamps
SEGMENTS = 44  # what one read of the TAP brings from a busy TCP flow, gso_max_size being 59 040
DATAGRAM = 1424
SUPER_FRAMES = 40  # in one repetition
HEADERS_SIZE = VNET_SIZE + 14 + 20 + 32  # of `super_frame`: vnet, Ethernet, IPv4, TCP with time stamps
KEY = bytes(range(32))
ADDRESSES = bytes.fromhex("020000000002020000000001")
REMOTE = Endpoint("192.0.2.2", 6783)

Timed = Callable[[], None]


class Aead(Protocol):
    def seal(self, nonce: bytes, plaintext: Buffer, aad: Buffer, /) -> bytes: ...

    def open(self, nonce: bytes, sealed: Buffer, aad: Buffer, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An engine's class, and how it makes what seals and opens."""

    name: str
    make: Callable[..., Any]
    aead: Callable[[Suite, bytes], Aead]


def engines() -> list[EngineKind]:
    found = [EngineKind("python", PythonEngine, new_aead)]
    if not native_missing():
        from meshd.forward.engine.native import _core
        from meshd.forward.engine.native.engine import NativeEngine

        found.append(EngineKind("native", NativeEngine, _core.Aead))
    return found


class Frames:
    """A frame port: the same frame `left` times; of what is written, the bytes behind the headers are counted."""

    def __init__(self, frame: bytes = b"") -> None:
        self._frame = frame
        self.left = 0
        self.carried = 0

    def fileno(self) -> int:
        return -1

    def read(self) -> memoryview | None:
        if not self.left:
            return None
        self.left -= 1
        return memoryview(bytearray(self._frame))

    def write(self, parts: Sequence[Buffer]) -> bool:
        self.carried += sum(map(len, parts)) - HEADERS_SIZE
        return True


class Port:
    """A datagram port: what is sent is kept if `keep`, and can be received."""

    family = 4

    def __init__(self) -> None:
        self.keep = False
        self.waiting: list[tuple[bytes, int]] = []

    def fileno(self) -> int:
        return -1

    def receive(self) -> tuple[bytes, int, Endpoint, int] | None:
        if not self.waiting:
            return None
        data, size = self.waiting.pop(0)
        return data, size, REMOTE, 0

    def send(self, parts: Sequence[Buffer], segment_size: int, destination: Endpoint) -> Unsent | None:
        if self.keep:
            joined = b"".join(parts)
            self.waiting.append((joined, segment_size or len(joined)))
        return None


def super_frame(payload: int, size: int) -> bytes:
    """What a TAP with vnet_hdr hands over: one TCP flow's bytes under one set of headers, checksums left to us."""
    total = 20 + 32 + payload
    ipv4 = bytearray(
        struct.pack(">BBHHHBBH4s4s", 0x45, 0, total, 1, 0x4000, 64, 6, 0, b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02")
    )
    struct.pack_into(">H", ipv4, 10, ipv4_header_checksum(ipv4))
    tcp = struct.pack(">HHIIBBHHH", 40000, 5201, 1, 1, 0x80, 0x10, 512, 0, 0) + bytes.fromhex(
        "0101080a0000000100000001"
    )
    vnet = struct.pack("<BBHHHH", 1, 1 if payload > size else 0, 66, size if payload > size else 0, 34, 16)
    return vnet + ADDRESSES + b"\x08\x00" + bytes(ipv4) + tcp + random.Random(1).randbytes(payload)


def engine(kind: EngineKind, frames: Frames, port: Port, origin: int) -> Engine:
    own = ShortId(bytes([origin]) * 8)
    made: Engine = kind.make(frames, [port], OnePeer(own), origin=own, boot=1, clock=lambda: 0.0)
    made.set_path(FIRST_PEER, REMOTE, DATAGRAM)
    return made


def packet_path(kind: EngineKind, frame: bytes) -> tuple[Timed, Timed, Port]:
    """Outward and inward for SUPER_FRAMES frames; what goes out in one call comes in with the next, and has to come whole."""
    source, port, sink = Frames(frame), Port(), Frames()
    sender, receiver = engine(kind, source, port, 1), engine(kind, sink, port, 2)
    sender.set_send_key(FIRST_PEER, Suite.AES_256_GCM, KEY, 1)
    receiver.add_receive_key(1, FIRST_PEER, Suite.AES_256_GCM, KEY)

    def outward() -> None:
        source.left = SUPER_FRAMES
        while sender.pump_frames(1.0):
            pass

    def inward() -> None:
        sink.carried = 0
        while receiver.pump_datagrams(port, 1.0):
            pass
        assert sink.carried == SUPER_FRAMES * (len(frame) - HEADERS_SIZE), "not all came in"

    return outward, inward, port
