"""What the single steps cost, in one process, without sockets or devices: `python -m bench.micro`.

A cell is the best of some repetitions (what disturbs a measurement can only make it longer) and their median. The packet path is
measured through each engine's own pumps, between memory devices: what is missing to the real thing is the kernel's part. Looking
up, segmenting and coalescing have rows of their own for the python engine only, since the native one does them inside a pump; its
seal and open are calls from Python here, and cheaper in there.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

from bench.micro_engines import (
    ADDRESSES,
    KEY,
    SEGMENT_PAYLOAD,
    SEGMENTS,
    SUPER_FRAMES,
    EngineKind,
    Port,
    Timed,
    engines,
    packet_path,
    super_frame,
)
from bench.one_peer import OnePeer
from bench.results import table
from meshd.crypto.aead import Suite, nonce
from meshd.crypto.handshake import Context, Initiator, Responder
from meshd.crypto.identity import Identity, verify_signature
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.wire import LivenessCounter
from meshd.drops import DropCounters
from meshd.forward.coalesce import Coalescer
from meshd.forward.engine.asking import Asking
from meshd.forward.engine.native import native_missing
from meshd.forward.engine.tables import Peer
from meshd.forward.ethernet import parse_headers
from meshd.forward.segmentation import segments
from meshd.forward.vnet import VNET_SIZE
from meshd.gossip.records import Batch, Record, sign_record, verify_record
from meshd.gossip.store import Store
from meshd.ids import ShortId

REPEATS = 7

Times = tuple[float, float]  # best and median, in µs
Rows = dict[str, Times]


def best(run: Timed, count: int, before: Timed = lambda: None) -> Times:
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


def rows_engine(kind: EngineKind) -> Rows:
    """What both engines do, each in its own way."""
    rows = _rows_crypto(kind)
    for text, payload in (
        (f"super-frame of {SEGMENTS} segments, 58 KB", SEGMENTS * SEGMENT_PAYLOAD),
        ("small frame of 130 B", 64),
    ):
        outward, inward, port = packet_path(kind, super_frame(payload, SEGMENT_PAYLOAD))

        def fill(outward: Timed = outward, port: Port = port) -> None:
            port.waiting.clear()
            port.keep = True
            outward()
            port.keep = False

        rows[f"outward: {text}"] = best(outward, SUPER_FRAMES)
        rows[f"inward:  {text}"] = best(inward, SUPER_FRAMES, fill)
        if payload > SEGMENT_PAYLOAD:
            for way in ("outward: ", "inward:  "):
                low, middle = rows[f"{way}{text}"]
                rows[f"{way}a segment of it"] = low / SEGMENTS, middle / SEGMENTS
    return rows


def _rows_crypto(kind: EngineKind) -> Rows:
    aead, head = kind.aead(Suite.AES_256_GCM, KEY), bytes(16)
    plain = bytes(SEGMENT_PAYLOAD + 68)  # with Ethernet, IPv4, TCP and entry header
    sealed, small = aead.seal(nonce(1), plain, head), aead.seal(nonce(1), bytes(100), head)
    return {
        "seal 1388 B": best(repeat(5000, lambda: aead.seal(nonce(1), plain, head)), 5000),
        "open 1388 B": best(repeat(5000, lambda: aead.open(nonce(1), sealed, head)), 5000),
        "open 100 B": best(repeat(5000, lambda: aead.open(nonce(1), small, head)), 5000),
    }


def rows_steps() -> Rows:
    """Steps that Python alone shows one by one."""
    asking = Asking(OnePeer(ShortId(bytes(8))), DropCounters(), Peer)
    data = memoryview(bytearray(super_frame(SEGMENTS * SEGMENT_PAYLOAD, SEGMENT_PAYLOAD)))
    headers = parse_headers(data[VNET_SIZE:])
    assert headers is not None
    whole = headers._replace(end=len(data) - VNET_SIZE)
    plains = segments(data, VNET_SIZE, whole, SEGMENT_PAYLOAD)
    first = parse_headers(memoryview(plains[0])[2:])
    assert first is not None

    def coalesce() -> None:
        series = Coalescer()
        assert series.begin(plains[0], first)
        assert series.take(plains[1:]) == len(plains) - 1
        series.end()

    return {
        "flow lookup": best(repeat(20000, lambda: asking.outbound_flow(ADDRESSES, 1.0)), 20000),
        "segment, of 44": best(repeat(200, lambda: segments(data, VNET_SIZE, whole, SEGMENT_PAYLOAD)), 200 * SEGMENTS),
        "coalesce, of 44": best(repeat(200, coalesce), 200 * SEGMENTS),
    }


def rows_handshake() -> Rows:
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

    return {"handshake IK, both sides": best(repeat(50, shake), 50)}


def rows_records() -> Rows:
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

    return {
        "record: sign": best(repeat(200, lambda: sign_record(mesh_id, blank[0], identity.sign)), 200),
        "record: verify": best(repeat(200, lambda: verify_record(mesh_id, records[0], public, verify_signature)), 200),
        "record: merge, of a batch of 200": best(merge, len(records)),
        "root hash, anew, 1 origin": best(repeat(1000, root), 1000),
    }


def cell(times: Times | None) -> str:
    return f"{times[0]:.2f} / {times[1]:.2f}" if times else "–"


def main() -> int:
    argparse.ArgumentParser(prog="python -m bench.micro", description="What single steps cost.").parse_args()
    kinds = engines()
    found = [rows_engine(kind) for kind in kinds]
    found[0] |= rows_steps()
    rows = [["µs, best / median", *(kind.name for kind in kinds)]]
    rows += [[text, *(cell(one.get(text)) for one in found)] for text in found[0]]
    print(f"AES-256-GCM; one engine a column\n\n{table(rows)}\n")
    both: Rows = {}
    for group in (rows_handshake, rows_records):
        both |= group()
    print(table([["µs, best / median", "both"], *([text, cell(times)] for text, times in both.items())]))
    if missing := native_missing():
        print(f"\nwithout the native engine: {missing}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
