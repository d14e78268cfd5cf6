"""One figure of one contender: TCP, ping, small datagrams, both together. Traffic comes from iperf3 and ping.

What the instruments can do
- ping takes its times from the kernel's time stamps and prints microseconds; its own waking up is not in them.
- iperf3 sends a datagram per system call and paces by a timer of 1 ms, in bursts. A core of its own lets it send 150 kpps and
  more, a shared one perhaps 70; and its receiver, when it does not get to run, loses some whoever carries them (a larger socket
  buffer helps). So a rate counts as loss-free when less than 1 % is lost *and* at least 97 % of it was really sent; above what
  iperf3 manages on the machine, the figure is iperf3's limit: "no overlay" shows where that is.
- Generator, sink and both routers share this machine's cores, as do other programs: trust ratios of one run.
"""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypedDict

from bench.contenders import Contender, cpu_seconds, rss_mib
from bench.topology import COMMAND_SECONDS, BenchError

__all__ = ["UDP_MAX_KPPS", "Plan", "bisect", "loaded_ping", "percentile", "ping", "tcp", "udp_rate"]

SERVER_SECONDS = 5.0
UDP_BYTES = 64
UDP_BUFFER = "200K"  # below Linux's usual limit (net.core.rmem_max); the kernel doubles it
UDP_MAX_KPPS = 192.0
LOSS_ALLOWED = 1.0  # percent
SENT_AT_LEAST = 0.97
WARM_UP = 0.5  # seconds that bulk runs before the ping beside it counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each part takes."""

    seconds: int = 5
    pings: int = 1000
    ping_interval: float = 0.002
    udp_seconds: int = 2
    udp_step: float = 3.0  # kpps to which the rate is bisected


class Sum(TypedDict):
    """What we read of iperf3's sums."""

    bits_per_second: float
    bytes: float
    seconds: float
    packets: float
    lost_percent: float


def tcp(contender: Contender, plan: Plan, streams: int = 1) -> dict[str, float]:
    """Throughput, and what it cost the routers where there are any."""
    pids = contender.pids()
    before = cpu_seconds(pids)
    received = _iperf(contender, "sum_received", "-t", str(plan.seconds), "-P", str(streams))
    figures = {"mbit": received["bits_per_second"] / 1e6}
    if pids:
        figures["cpu_per_gb"] = (cpu_seconds(pids) - before) / (received["bytes"] / 1e9)
        figures["rss_mib"] = rss_mib(pids)
    return figures


def ping(contender: Contender, plan: Plan) -> dict[str, float]:
    times = _ping_times(contender, plan.pings, plan.ping_interval)
    return {"p50": statistics.median(times), "p99": percentile(times, 0.99)}


def loaded_ping(contender: Contender, plan: Plan) -> dict[str, float]:
    """Ping while one TCP stream takes all it can get."""
    interval = 0.005
    near, far = contender.ends
    with _server(contender):
        bulk = contender.lab.spawn(near.space, "iperf3", "-c", far.address, "-t", str(int(COMMAND_SECONDS)))
        try:
            time.sleep(WARM_UP)
            times = _ping_times(contender, int(max(plan.seconds, 2) / interval), interval)
            if bulk.poll() is not None:
                raise BenchError(f"{contender.title}: the bulk transfer ended before the ping beside it")
        finally:
            _end(bulk)
    return {"p50": statistics.median(times), "p99": percentile(times, 0.99)}


def udp_rate(contender: Contender, plan: Plan) -> float:
    """The highest rate, in kpps, at which less than 1 % of datagrams with 64 bytes are lost."""

    def passes(kpps: float) -> bool:
        bits = str(int(kpps * 1000 * UDP_BYTES * 8))
        load = ("-u", "-l", str(UDP_BYTES), "-w", UDP_BUFFER, "-b", bits)
        got = _iperf(contender, "sum", *load, "-t", str(plan.udp_seconds))
        sent = got["packets"] / got["seconds"] / 1000
        return got["lost_percent"] < LOSS_ALLOWED and sent >= kpps * SENT_AT_LEAST

    return bisect(passes, UDP_MAX_KPPS, plan.udp_step)


def bisect(passes: Callable[[float], bool], limit: float, step: float) -> float:
    """The highest value below `limit` that passes, to `step`; 0 if none does. `limit` itself is tried last, should all pass."""
    low, high = 0.0, limit
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


def _ping_times(contender: Contender, count: int, interval: float) -> list[float]:
    near, far = contender.ends
    text = contender.lab.run(near.space, "ping", "-n", "-i", str(interval), "-c", str(count), far.address)
    times = [float(value) * 1000 for value in re.findall(r"time=([0-9.]+) ms", text)]
    if len(times) < count * 0.9:
        raise BenchError(f"{contender.title}: {len(times)} of {count} pings were answered")
    return times


def _iperf(contender: Contender, part: str, *arguments: str) -> Sum:
    near, far = contender.ends
    with _server(contender):
        text = contender.lab.run(near.space, "iperf3", "-J", "-c", far.address, *arguments)
    report = json.loads(text)
    if "error" in report or part not in report["end"]:
        raise BenchError(f"{contender.title}: iperf3 {' '.join(arguments)}: {report.get('error', 'no result')}")
    found: Sum = report["end"][part]
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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
