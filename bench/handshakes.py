"""`python -m bench.handshakes`: how many handshakes a second one thread serves, gate and machine together, and what floods cost.

A served handshake is a true type 1 of a member from an address of its own: limits, mac1, four DH, the type 2, the keys. The rates
of what is refused say what a flood costs: cut before it is read, wrong mac1, a cookie.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence

from meshd.crypto.handshake import Context, Initiator
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.sessions import Sessions
from meshd.crypto.wire import Liveness, LivenessCounter
from meshd.drops import DropCounters, DropReason
from meshd.ids import Endpoint

COUNT = 1000
ROUNDS = 5


class Served:
    """A host with one member in its records, and that member's types 1."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.mesh = MeshKey.generate(rng.randbytes)
        member, host = Identity.generate(rng.randbytes), Identity.generate(rng.randbytes)
        context = Context(member, self.mesh, rng.randbytes)
        self.drops = DropCounters()
        self.answers = 0  # datagrams that it sent
        self.sessions = Sessions(
            identity=host,
            mesh=self.mesh,
            entropy=rng.randbytes,
            rng=rng,
            liveness=LivenessCounter(1),
            lookup={member.x25519_public: member.host_id}.get,
            sealed=lambda peer: 0,
            drops=self.drops,
        )
        self.true = [
            Initiator(context, index=number, remote_static=host.x25519_public, liveness=Liveness(1, number)).start()
            for number in range(1, COUNT + 1)
        ]
        self.wrong = [datagram[:-40] + rng.randbytes(24) + bytes(16) for datagram in self.true]

    def feed(self, datagrams: Sequence[bytes], step: float) -> float:
        """Seconds of CPU for one; `step`: virtual seconds between two."""
        now = 0.0
        started = time.thread_time()
        for number, datagram in enumerate(datagrams):
            now += step
            self.sessions.receive(datagram, Endpoint(f"10.0.{number >> 8}.{number & 255}", 6783), now)
            self.answers += len(self.sessions.poll_transmit())
            while self.sessions.next_event() is not None:
                pass
        return (time.thread_time() - started) / len(datagrams)


def served(host: Served) -> float:
    seconds = host.feed(host.true, 0.05)
    assert host.answers == COUNT
    assert not host.drops.as_dict()
    return seconds


def wrong_mac1(host: Served) -> float:
    seconds = host.feed(host.wrong, 0.001)
    assert host.drops[DropReason.BAD_MAC1] == COUNT
    return seconds


def cookie(host: Served) -> float:
    """Under load: every one is answered with a cookie."""
    while not host.sessions._gate.loaded(0.0):
        host.sessions._gate.charge(0.0, 0.0)
    seconds = host.feed(host.true[:900], 0.001)
    assert host.drops[DropReason.NO_COOKIE] == host.answers == 900
    return seconds


def cut(host: Served) -> float:
    host.feed(host.wrong, 1e-9)  # uses up the burst that is looked at
    before = host.drops[DropReason.RATE_LIMITED]
    seconds = host.feed(host.wrong, 1e-9)
    assert host.drops[DropReason.RATE_LIMITED] - before == COUNT
    assert host.answers == 0
    return seconds


MEASURED: dict[str, Callable[[Served], float]] = {
    "served handshake": served,
    "refused: wrong mac1": wrong_mac1,
    "refused: a cookie": cookie,
    "refused: flood cut": cut,
}


def main() -> int:
    print(f"{'':24}{'µs':>8}{'a second':>12}")
    for name, measure in MEASURED.items():
        best = min(measure(Served(seed)) for seed in range(ROUNDS))
        print(f"{name:24}{best * 1e6:8.1f}{1 / best:12,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
