"""What the single steps cost, in one process, without sockets or devices: `python -m bench.micro`.

Each row is the best of some repetitions (what disturbs a measurement can only make it longer) and their median. The packet path
is measured through the engine's own pumps, between memory devices: what is missing to the real thing is the kernel's part.
"""

from __future__ import annotations

import argparse
import random
import statistics
import struct
import sys
import time
from collections.abc import Callable, Sequence

from bench.results import table
from meshd.crypto.aead import Suite, new_aead, nonce
from meshd.crypto.handshake import Context, Initiator, Responder
from meshd.crypto.identity import Identity, verify_signature
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.wire import LivenessCounter
from meshd.drops import DropCounters, DropReason
from meshd.forward.checksum import ipv4_header_checksum
from meshd.forward.engine.asking import Asking
from meshd.forward.engine.interface import Buffer, Inspected, Verdict
from meshd.forward.engine.python import PythonEngine
from meshd.forward.engine.tables import Peer
from meshd.forward.slots import FIRST_PEER, LOCAL
from meshd.gossip.records import Batch, Record, sign_record, verify_record
from meshd.gossip.store import Store
from meshd.ids import Address, Endpoint, Mac, SegmentId, ShortId, SlotId

REPEATS = 7
SEGMENT_PAYLOAD = 1320  # MTU 1372 less the headers of IPv4 and of TCP with time stamps
SEGMENTS = 44  # what one read of the TAP brings from a busy TCP flow, gso_max_size being 59 040
DATAGRAM = 1424
SUPER_FRAMES = 40  # in one repetition
KEY = bytes(range(32))
ADDRESSES = bytes.fromhex("020000000002020000000001")
REMOTE = Endpoint("192.0.2.2", 6783)

Timed = Callable[[], None]


class Upcalls:
    """Everything captured is for the one peer, everything received is local."""

    def decide_outbound(self, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        return Verdict(FIRST_PEER)

    def decide_inbound(self, peer: SlotId, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        return Verdict(LOCAL)

    def flood_children(self, origin: ShortId, now: float) -> Sequence[SlotId] | None:
        return None

    def group_members(self, segment: SegmentId, group: Mac, now: float) -> Sequence[SlotId] | None:
        return None

    def inspect(self, segment: SegmentId, frame: memoryview, now: float) -> Inspected:
        return Inspected()

    def session_wanted(self, peer: SlotId, now: float) -> None: ...

    def key_confirmed(self, index: int, now: float) -> None: ...

    def receive_handshake(self, data: memoryview, source: Address, now: float) -> None: ...

    def receive_control(
        self, peer: SlotId, index: int, counter: int, body: memoryview, source: Address, now: float, *, newest: bool
    ) -> None: ...

    def relay_next(self, destination: ShortId, now: float) -> SlotId | None:
        return None


class Frames:
    """A frame port: the same frame `left` times; what is written is counted."""

    def __init__(self, frame: bytes = b"") -> None:
        self._frame = frame
        self.left = 0
        self.written = 0

    def fileno(self) -> int:
        return -1

    def read(self) -> memoryview | None:
        if not self.left:
            return None
        self.left -= 1
        return memoryview(bytearray(self._frame))

    def write(self, parts: Sequence[Buffer]) -> bool:
        self.written += 1
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

    def send(self, parts: Sequence[Buffer], segment_size: int, destination: Endpoint) -> DropReason | None:
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


def engine(frames: Frames, port: Port, origin: int) -> PythonEngine:
    made = PythonEngine(frames, [port], Upcalls(), origin=ShortId(bytes([origin]) * 8), boot=1, clock=lambda: 0.0)
    made.set_path(FIRST_PEER, REMOTE, DATAGRAM)
    return made


def packet_path(frame: bytes) -> tuple[Timed, Timed, Port]:
    """Outward and inward for SUPER_FRAMES frames; what goes out in one call comes in with the next."""
    source, port, sink = Frames(frame), Port(), Frames()
    sender, receiver = engine(source, port, 1), engine(sink, port, 2)
    sender.set_send_key(FIRST_PEER, Suite.AES_256_GCM, KEY, 1)
    receiver.add_receive_key(1, FIRST_PEER, Suite.AES_256_GCM, KEY)

    def outward() -> None:
        source.left = SUPER_FRAMES
        while sender.pump_frames(1.0):
            pass

    def inward() -> None:
        while receiver.pump_datagrams(port, 1.0):
            pass
        assert sink.written, "nothing came in"

    return outward, inward, port


def best(run: Timed, count: int, before: Timed = lambda: None) -> tuple[float, float]:
    """(best, median) of one of the `count` operations that `run` does, in µs."""
    times = []
    for _ in range(REPEATS):
        before()
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) / count * 1e6)
    return min(times), statistics.median(times)


def repeat(count: int, work: Callable[[], object]) -> Timed:
    def run() -> None:
        for _ in range(count):
            work()

    return run


def rows_crypto() -> list[tuple[str, tuple[float, float]]]:
    aead, head, plain = (
        new_aead(Suite.AES_256_GCM, KEY),
        bytes(16),
        bytes(SEGMENT_PAYLOAD + 68),
    )  # with Ethernet, IPv4, TCP and entry header
    sealed = aead.seal(nonce(1), plain, head)
    small = aead.seal(nonce(1), bytes(100), head)
    return [
        ("seal 1388 B (AES-256-GCM)", best(repeat(5000, lambda: aead.seal(nonce(1), plain, head)), 5000)),
        ("open 1388 B", best(repeat(5000, lambda: aead.open(nonce(1), sealed, head)), 5000)),
        ("open 100 B", best(repeat(5000, lambda: aead.open(nonce(1), small, head)), 5000)),
    ]


def rows_path() -> list[tuple[str, tuple[float, float]]]:
    asking = Asking(Upcalls(), DropCounters(), Peer)
    rows = [("flow lookup", best(repeat(20000, lambda: asking.outbound_flow(ADDRESSES, 1.0)), 20000))]
    for text, payload in (
        (f"super-frame of {SEGMENTS} segments, 58 KB", SEGMENTS * SEGMENT_PAYLOAD),
        ("small frame of 130 B", 64),
    ):
        outward, inward, port = packet_path(super_frame(payload, SEGMENT_PAYLOAD))

        def fill(outward: Timed = outward, port: Port = port) -> None:
            port.waiting.clear()
            port.keep = True
            outward()
            port.keep = False

        rows.append((f"outward: {text}", best(outward, SUPER_FRAMES)))
        rows.append((f"inward:  {text}", best(inward, SUPER_FRAMES, fill)))
    return rows


def rows_handshake() -> list[tuple[str, tuple[float, float]]]:
    rng = random.Random(1)
    mesh = MeshKey.generate(rng.randbytes)
    alice, bob = (Context(Identity.generate(rng.randbytes), mesh, rng.randbytes) for _ in range(2))
    liveness = LivenessCounter(1)

    def shake() -> None:
        starts = Initiator(alice, index=1, remote_static=bob.identity.x25519_public, liveness=liveness())
        answers = Responder(bob, allocate=lambda: 2, authorize=lambda _static, _liveness: None)
        reply = answers.receive(bob.read(starts.start()))
        assert reply is not None
        starts.receive(alice.read(reply))
        assert starts.established is not None

    return [("handshake IK, both sides", best(repeat(50, shake), 50))]


def rows_records() -> list[tuple[str, tuple[float, float]]]:
    rng, mesh_id = random.Random(1), bytes(16)
    identity = Identity.generate(rng.randbytes)
    public, origin = identity.ed25519_public, identity.host_id
    blank = [Record(origin, 1, number + 1, b"m" + rng.randbytes(6), rng.randbytes(60), b"") for number in range(200)]
    records = [sign_record(mesh_id, record, identity.sign) for record in blank]
    batch = Batch(public, 1, 0, True, None, tuple(records))
    other = Identity.generate(rng.randbytes)

    def store() -> Store:
        return Store(
            public=other.ed25519_public, mesh_id=mesh_id, epoch=1, verifier=verify_signature, drops=DropCounters()
        )

    def merge() -> None:
        assert store().merge(batch).checked == len(records)

    full = store()
    full.merge(batch)

    def root() -> None:
        full._root = None
        full.root_hash()

    return [
        ("record: sign", best(repeat(200, lambda: sign_record(mesh_id, blank[0], identity.sign)), 200)),
        (
            "record: verify",
            best(repeat(200, lambda: verify_record(mesh_id, records[0], public, verify_signature)), 200),
        ),
        ("record: merge, of a batch of 200", best(merge, len(records))),
        ("root hash, anew, 1 origin", best(repeat(1000, root), 1000)),
    ]


def main() -> int:
    argparse.ArgumentParser(prog="python -m bench.micro", description="What single steps cost.").parse_args()
    rows = [["µs", "best", "median"]]
    for group in (rows_crypto, rows_path, rows_handshake, rows_records):
        rows += [[text, f"{low:.2f}", f"{middle:.2f}"] for text, (low, middle) in group()]
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
