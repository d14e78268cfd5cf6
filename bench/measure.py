"""One figure of one contender: TCP, ping, small datagrams, both together.

What the instruments can do
- iperf3 measures TCP; what counts is what its receiver got.
- ping takes its times from the kernel's time stamps and prints microseconds; its own waking up is not in them.
- Small datagrams come from bench.blast, 64 in a system call. A rate counts as loss-free when less than 1 % is lost *and* at least
  97 % of it was really sent; "no overlay" shows where generator and sink themselves end.
- Generator, sink and both routers share this machine's cores, as do other programs: trust ratios of one run.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from bench.contender import Contender, End, cpu_seconds, rss_mib
from bench.topology import COMMAND_SECONDS, BenchError, Lab, next_line, wait_until

__all__ = [
    "UDP_MAX_KPPS",
    "Plan",
    "bisect",
    "bulk",
    "flood",
    "loaded_ping",
    "percentile",
    "ping",
    "search",
    "tcp",
    "transfer",
    "udp_rate",
]

SERVER_SECONDS = 5.0
UDP_BYTES = 64
UDP_PORTS = itertools.cycle(range(9000, 10000))  # what is late from one blast must not count in the next
UDP_MAX_KPPS = 384.0
LOSS_ALLOWED = 0.01
SENT_AT_LEAST = 0.97
DRAIN_SECONDS = 0.15  # between the last datagram sent and the count
WARM_UP = 0.5  # seconds that bulk runs before what is measured beside it counts
LOADED_PING_INTERVAL = 0.005
BLAST = (sys.executable, "-I", "-S", str(Path(__file__).with_name("blast.py")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each part takes."""

    seconds: int = 3
    pings: int = 700
    ping_interval: float = 0.002
    udp_seconds: float = 1.0
    udp_step: float = 3.0  # kpps to which the rate is bisected
    wan_seconds: int = 12


class Sum(TypedDict):
    """What we read of iperf3's sums."""

    bits_per_second: float
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Blast:
    """What one burst of small datagrams came to."""

    sent: int
    received: int
    seconds: float
    cpu: float  # of the routers, in seconds

    @property
    def loss(self) -> float:
        return 1 - self.received / self.sent if self.sent else 1.0

    @property
    def sent_kpps(self) -> float:
        return self.sent / self.seconds / 1000

    @property
    def received_kpps(self) -> float:
        return self.received / self.seconds / 1000

    @property
    def cpu_us(self) -> float:
        """Microseconds of the routers for each datagram that arrived."""
        return self.cpu / self.received * 1e6 if self.received else 0.0


def tcp(contender: Contender, plan: Plan, streams: int = 1, *more: str) -> dict[str, float]:
    """Throughput, and what it cost the routers where there are any; `more` is for iperf3."""
    near, far = contender.ends
    with _routers(contender) as pids:
        before = cpu_seconds(pids)
        received = transfer(contender.lab, near.space, far, "-t", str(plan.seconds), "-P", str(streams), *more)
        figures = {"mbit": received["bits_per_second"] / 1e6}
        if pids:
            figures["cpu_per_gb"] = (cpu_seconds(pids) - before) / max(received["bytes"] / 1e9, 1e-9)
            figures["rss_mib"] = rss_mib(pids)
    return figures


@contextlib.contextmanager
def _routers(contender: Contender) -> Iterator[list[int]]:
    """Process ids of the routers. Raises BenchError where one ends before the block does: also for what failed because of that."""
    pids = contender.pids()
    try:
        yield pids
    except BenchError:
        cpu_seconds(pids)
        raise
    cpu_seconds(pids)


def ping(contender: Contender, count: int, interval: float) -> dict[str, float]:
    """Round trip times in µs."""
    near, far = contender.ends
    with _routers(contender):
        text = contender.lab.run(near.space, "ping", "-n", "-i", str(interval), "-c", str(count), far.address)
    times = [float(value) * 1000 for value in re.findall(r"time=([0-9.]+) ms", text)]
    if len(times) < count * 0.9:
        raise BenchError(f"{contender.title}: {len(times)} of {count} pings were answered")
    return {"p50": statistics.median(times), "p99": percentile(times, 0.99)}


def loaded_ping(contender: Contender, plan: Plan) -> dict[str, float]:
    """Ping while one TCP stream takes all it can get."""
    with bulk(contender):
        return ping(contender, int(max(plan.seconds, 2) / LOADED_PING_INTERVAL), LOADED_PING_INTERVAL)


@contextlib.contextmanager
def bulk(contender: Contender) -> Iterator[None]:
    """One TCP stream at full speed beside what the block does; Raises BenchError if it ends before that."""
    near, far = contender.ends
    with _server(contender.lab, far.space):
        process = contender.lab.spawn(near.space, "iperf3", "-c", far.address, "-t", str(int(COMMAND_SECONDS)))
        try:
            time.sleep(WARM_UP)
            yield
            if process.poll() is not None:
                raise BenchError(f"{contender.title}: the bulk transfer ended before what was measured beside it")
        finally:
            _end(process)


def udp_rate(contender: Contender, plan: Plan, flood: float) -> tuple[float, Blast | None]:
    """The highest rate, in kpps, at which less than 1 % of datagrams with 64 bytes are lost; and how that went.

    What arrives of a flood says where to begin: most contenders are far below what some reach, and overload takes its time.
    """
    best: Blast | None = None

    def passes(kpps: float) -> bool:
        nonlocal best
        got = blast(contender, kpps, plan.udp_seconds)
        passed = got.loss < LOSS_ALLOWED and got.sent_kpps >= kpps * SENT_AT_LEAST
        if passed:
            best = got
        return passed

    return search(passes, 2 * flood, UDP_MAX_KPPS, plan.udp_step), best


def flood(contender: Contender, plan: Plan) -> float:
    """How many kpps arrive when the sender sends all it can."""
    return blast(contender, 0.0, plan.udp_seconds).received_kpps


def blast(contender: Contender, kpps: float, seconds: float) -> Blast:
    """Datagrams of 64 bytes at this rate (0: as many as possible). Raises BenchError."""
    near, far = contender.ends
    port = str(next(UDP_PORTS))
    receiver = contender.lab.spawn(far.space, *BLAST, "receive", port, pipes=True)
    try:
        with _routers(contender) as pids:
            next_line(receiver, "bench.blast does not listen")
            before = cpu_seconds(pids)
            load = (port, str(UDP_BYTES), str(kpps * 1000), str(seconds))
            sent = _json(contender.lab.run(near.space, *BLAST, "send", far.address, *load), "bench.blast send")
            time.sleep(DRAIN_SECONDS)
            used = cpu_seconds(pids) - before
            assert receiver.stdin is not None
            receiver.stdin.close()
            received = _json(next_line(receiver, "bench.blast counts nothing"), "bench.blast receive")
    finally:
        _end(receiver)
    return Blast(sent["sent"], received["received"], sent["seconds"], used)


def search(passes: Callable[[float], bool], first: float, limit: float, step: float) -> float:
    """The highest value up to `limit` that passes, to `step`: below `first`, or if all passes there below twice that, and so on."""
    low, high = 0.0, step
    while high < min(first, limit):
        high *= 2
    found = bisect(passes, min(high, limit), step)
    while found == high < limit:
        low, high = high, min(2 * high, limit)
        found = bisect(passes, high, step, low)
    return found


def bisect(passes: Callable[[float], bool], limit: float, step: float, low: float = 0.0) -> float:
    """The highest value below `limit` that passes, to `step`; `low` if none does. `limit` itself is tried last, should all pass."""
    high = limit
    while high - low > step:
        middle = (low + high) / 2
        if passes(middle):
            low = middle
        else:
            high = middle
    return limit if high == limit and passes(limit) else low


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed (nearest rank)."""
    rank = math.ceil(round(share * len(values), 9))  # 0.07 of 100 is 7, also in binary
    return sorted(values)[max(rank, 1) - 1]


def transfer(lab: Lab, space: str, far: End, *arguments: str) -> Sum:
    """What the receiver of an iperf3 run got. Raises BenchError."""
    with _server(lab, far.space):
        command = ("iperf3", "-J", "-c", far.address, *arguments)
        report = _json(lab.run(space, *command, check=False), "iperf3")  # what went wrong is in there, too
    found: Sum | None = report.get("end", {}).get("sum_received")
    if "error" in report or not found:
        raise BenchError(f"iperf3 {' '.join(arguments)}: {report.get('error', 'no result')}")
    if not found["seconds"]:
        raise BenchError(f"iperf3 {' '.join(arguments)}: nothing was sent")
    return found


@contextlib.contextmanager
def _server(lab: Lab, space: str) -> Iterator[None]:
    """iperf3 in this namespace, for one transfer."""
    process = lab.spawn(space, "iperf3", "-s", "-1")
    try:
        wait_until(lambda: ":5201" in lab.run(space, "ss", "-Hltn"), "iperf3 does not listen", SERVER_SECONDS)
        yield
    finally:
        _end(process)


def _json(text: str, what: str) -> dict[str, Any]:
    """Raises BenchError."""
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        raise BenchError(f"{what} printed no result but {text[:60]!r}") from None
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
