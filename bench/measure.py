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
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict

from bench.contender import Contender, cpu_seconds, rss_mib
from bench.topology import COMMAND_SECONDS, BenchError

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
    wan_seconds: int = 7


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
    pids = contender.pids()
    before = cpu_seconds(pids)
    received = _iperf(contender, "-t", str(plan.seconds), "-P", str(streams), *more)
    figures = {"mbit": received["bits_per_second"] / 1e6}
    if pids:
        figures["cpu_per_gb"] = (cpu_seconds(pids) - before) / max(received["bytes"] / 1e9, 1e-9)
        figures["rss_mib"] = rss_mib(pids)
    return figures


def ping(contender: Contender, count: int, interval: float) -> dict[str, float]:
    """Round trip times in µs."""
    near, far = contender.ends
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
    with _server(contender):
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
    pids, port = contender.pids(), str(next(UDP_PORTS))
    receiver = contender.lab.spawn(far.space, *BLAST, "receive", port, pipes=True)
    try:
        _line(receiver.stdout, "bench.blast does not listen")
        before = cpu_seconds(pids)
        load = (port, str(UDP_BYTES), str(kpps * 1000), str(seconds))
        sent = json.loads(contender.lab.run(near.space, *BLAST, "send", far.address, *load))
        time.sleep(DRAIN_SECONDS)
        used = cpu_seconds(pids) - before
        assert receiver.stdin is not None
        receiver.stdin.close()
        received = json.loads(_line(receiver.stdout, "bench.blast counts nothing"))
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
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def _iperf(contender: Contender, *arguments: str) -> Sum:
    near, far = contender.ends
    with _server(contender):
        text = contender.lab.run(near.space, "iperf3", "-J", "-c", far.address, *arguments)
    report = json.loads(text)
    if "error" in report or "sum_received" not in report["end"]:
        raise BenchError(f"{contender.title}: iperf3 {' '.join(arguments)}: {report.get('error', 'no result')}")
    found: Sum = report["end"]["sum_received"]
    if not found["seconds"]:
        raise BenchError(f"{contender.title}: iperf3 {' '.join(arguments)}: nothing was sent")
    return found


@contextlib.contextmanager
def _server(contender: Contender) -> Iterator[None]:
    """iperf3 at the far end, for one transfer."""
    lab, space = contender.lab, contender.ends[1].space
    process = lab.spawn(space, "iperf3", "-s", "-1")
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while ":5201" not in lab.run(space, "ss", "-Hltn"):
            if time.monotonic() > deadline:
                raise BenchError("iperf3 does not listen")
            time.sleep(0.01)
        yield
    finally:
        _end(process)


def _line(stream: IO[bytes] | None, text: str) -> str:
    """The next line that a process of ours prints. Raises BenchError with this text where none comes."""
    line = stream.readline() if stream is not None else b""
    if not line:
        raise BenchError(text)
    return line.decode()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
