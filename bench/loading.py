"""What is lost at 80 % of the loss-free rate while everything else goes on: new keys, floods, containers that come and go.

Three hosts. The rate is found first, in the same lab and with nothing else going on: the highest with less than 1 % lost. Then
datagrams are sent at 80 % of it while keys change every five seconds, the third host's container floods, and containers are
attached and detached at two hosts. What the routers' counters say they have dropped meanwhile is told apart: full queues, ours and
the kernel's, and everything else.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from bench import measure
from bench.relaying import Trio, trio
from bench.topology import BenchError, meanwhile

__all__ = ["load_losses"]

SHARE = 0.8
LOAD_SECONDS = 6.0  # longer than a key lives
REKEY_SECONDS = "5"
FLOOD_INTERVAL = "0.005"
GUEST = "10.77.1.77/24"
QUEUES = ("queue_full", "kernel_udp", "kernel_tap")


def load_losses(engine: str, plan: measure.Plan) -> dict[str, float]:
    """The rate in kpps; of a million datagrams sent, those that did not arrive; of a million, drops by full queues and others.
    Raises BenchError."""
    with trio(engine, "l", "--rekey-interval", REKEY_SECONDS) as made:
        rate, _ = measure.udp_rate(made, plan, measure.flood(made, plan))
        if not rate:
            raise BenchError(f"{made.title}: no rate without loss was found")
        before = drops(made)
        with floods(made), changes(made):
            got = measure.blast(made, SHARE * rate, LOAD_SECONDS)
        dropped = drops(made) - before
    queues = sum(dropped[name] for name in QUEUES)
    million = 1e6 / max(got.sent, 1)
    return {
        "load_kpps": got.sent_kpps,
        "load_lost": (got.sent - got.received) * million,
        "load_queues": queues * million,
        "load_other": (dropped.total() - queues) * million,
    }


def drops(made: Trio) -> Counter[str]:
    """Of all three routers, by reason."""
    total: Counter[str] = Counter()
    for router in made.routers:
        total.update(router.status()["Drops"])
    return total


@contextlib.contextmanager
def floods(made: Trio) -> Iterator[None]:
    """Frames to everybody from the third host's container; who gets them does not answer."""
    network = made.ends[0].address.rpartition(".")[0]
    command = ("ping", "-b", "-n", "-q", "-i", FLOOD_INTERVAL, f"{network}.255")
    process = made.lab.spawn(made.third.space, *command)
    try:
        yield
        if process.poll() is not None:
            raise BenchError(f"{made.title}: the flood ended before what was measured beside it")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def changes(made: Trio) -> Iterator[None]:
    """A container comes and goes at the second host and at the third, again and again."""
    guest = made.lab.space("guest")

    def change(ended: threading.Event) -> None:
        while not ended.is_set():
            for router in made.routers[1:]:
                router.attach(guest, GUEST)
                router.meshd("detach", f"netns:{guest}")

    with meanwhile("changes", change):
        yield
