"""Measure the python engine without a node against kernel VXLAN: TCP throughput, ping, small datagrams, CPU per GB.

    python -m bench.engine_loop [--rounds 3] [--seconds 3] [--udp] [--no-offloads] [--profile FILE]

Needs root, iperf3 and ping. Engine and VXLAN take turns in every round, so that a noisy machine is noisy to both; trust the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.engine_topology import Topology, run, topology

ROLES = {"meshd": ("c", "10.77.1.2"), "vxlan": ("v", "10.77.2.2")}
UDP_KPPS = (20, 30, 40, 50, 60, 80, 100)
LOSS_ALLOWED = 1.0  # percent
SERVER_SECONDS = 5.0


@dataclass
class Result:
    """All rounds of one contender."""

    tcp_mbit: list[float] = field(default_factory=list)
    ping_p50: list[float] = field(default_factory=list)
    ping_p99: list[float] = field(default_factory=list)
    cpu_per_gb: list[float] = field(default_factory=list)
    udp_kpps: float = 0.0


def iperf(made: Topology, role: str, address: str, *arguments: str) -> dict[str, dict[str, float]]:
    with server(made, role):
        text = run("ip", "netns", "exec", made.space(role, 0), "iperf3", "-J", "-c", address, *arguments)
    end: dict[str, dict[str, float]] = json.loads(text)["end"]
    return end


@contextlib.contextmanager
def server(made: Topology, role: str) -> Iterator[None]:
    space = made.space(role, 1)
    process = subprocess.Popen(
        ["ip", "netns", "exec", space, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while ":5201" not in run("ip", "netns", "exec", space, "ss", "-Hltn"):
            if time.monotonic() > deadline:
                raise RuntimeError("iperf3 does not listen")
            time.sleep(0.02)
        yield
        process.wait(SERVER_SECONDS)
    finally:
        process.kill()
        process.wait()


def measure_tcp(made: Topology, name: str, seconds: int, result: Result) -> None:
    role, address = ROLES[name]
    before = made.cpu_seconds()
    received = iperf(made, role, address, "-t", str(seconds))["sum_received"]
    result.tcp_mbit.append(received["bits_per_second"] / 1e6)
    result.cpu_per_gb.append((made.cpu_seconds() - before) / (received["bytes"] / 1e9))


def measure_ping(made: Topology, name: str, result: Result) -> None:
    role, address = ROLES[name]
    command = ("ip", "netns", "exec", made.space(role, 0), "ping", "-i", "0.005", "-c", "300", address)
    times = sorted(float(value) * 1000 for value in re.findall(r"time=([0-9.]+) ms", run(*command)))
    result.ping_p50.append(statistics.median(times))
    result.ping_p99.append(times[len(times) * 99 // 100])


def measure_udp(made: Topology, name: str, result: Result) -> None:
    role, address = ROLES[name]
    for kpps in UDP_KPPS:
        end = iperf(made, role, address, "-u", "-l", "64", "-b", str(kpps * 64 * 8 * 1000), "-t", "2")["sum"]
        sent = end["packets"] / end["seconds"] / 1000
        print(f"  {name}: {kpps} kpps asked, {sent:.1f} sent, {end['lost_percent']:.2f} % lost")
        if end["lost_percent"] >= LOSS_ALLOWED or sent < kpps * 0.95:
            return
        result.udp_kpps = sent


def show(results: dict[str, Result]) -> None:
    print(f"{'':8}{'TCP Mbit/s':>12}{'(spread)':>16}{'ping p50':>10}{'p99 µs':>9}{'CPU s/GB':>10}{'UDP kpps':>10}")
    for name, result in results.items():
        tcp, spread = statistics.median(result.tcp_mbit), f"{min(result.tcp_mbit):.0f}–{max(result.tcp_mbit):.0f}"
        ping, tail = statistics.median(result.ping_p50), statistics.median(result.ping_p99)
        cpu = statistics.median(result.cpu_per_gb)
        print(f"{name:8}{tcp:12.0f}{spread:>16}{ping:10.0f}{tail:9.0f}{cpu:10.2f}{result.udp_kpps:10.1f}")
    mine, kernel = results["meshd"], results["vxlan"]
    print(f"TCP ratio {statistics.median(mine.tcp_mbit) / statistics.median(kernel.tcp_mbit):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument(
        "--udp", action="store_true", help="also find the highest rate of 64 B datagrams with < 1 %% loss"
    )
    parser.add_argument(
        "--no-offloads", action="store_true", help="underlay without GSO, GRO and TSO: nearer to a plain NIC"
    )
    parser.add_argument(
        "--profile", help="write cProfile statistics of the routers to FILE.0 and FILE.1 (slows them down)"
    )
    options = parser.parse_args()
    results = {name: Result() for name in ROLES}
    arguments = ("--profile", options.profile) if options.profile else ()
    with topology(*arguments, offloads=not options.no_offloads) as made:
        for number in range(options.rounds):
            for name, result in results.items():
                measure_tcp(made, name, options.seconds, result)
                measure_ping(made, name, result)
                if options.udp and number == 0:
                    measure_udp(made, name, result)
        show(results)


if __name__ == "__main__":
    main()
