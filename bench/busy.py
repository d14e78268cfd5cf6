"""How much of its speed a router keeps while its loop has other work: 1000 records a second, and an API that is asked all the time.

The records come from a member of the mesh of their own (bench.churn) and concern none of what is measured. Quiet transfers stand
before and after the busy ones, so that a machine that slows down in between is not taken for a router that does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import measure
from bench.contender import cpu_seconds
from bench.contenders import Meshd
from bench.topology import BenchError, meanwhile, next_line, wait_until

__all__ = ["RECORDS_PER_SECOND", "api", "keeps", "records"]

RECORDS_PER_SECOND = 1000
ARRIVED_AT_LEAST = 0.9
QUESTIONS_PER_SECOND = 20  # to each router
PORT = 6793
BEGINNING = 0.1  # seconds whose records may not be out yet
SPREAD_SECONDS = 15.0
LEAVE_SECONDS = 3.0
CPU_SECONDS = 1.5
PINGS = 500
PING_INTERVAL = 0.004


def keeps(contender: Meshd, plan: measure.Plan) -> dict[str, float]:
    """Shares of the quiet rate, and ping times while both go on. Raises BenchError."""

    def rate() -> float:
        return measure.tcp(contender, plan)["mbit"]

    before = rate()
    with records(contender) as spread:
        cpu = _cpu_share(contender)
        with_records = rate()
        with api(contender):
            ping = measure.ping(contender, PINGS, PING_INTERVAL)
    with api(contender):
        with_api = rate()
    quiet = (before + rate()) / 2
    if not quiet:
        raise BenchError(f"{contender.title}: nothing comes through")
    return {
        "busy_records": with_records / quiet,
        "busy_spread": spread.seconds,
        "busy_cpu": cpu,
        "busy_api": with_api / quiet,
        "busy_ping_p50": ping["p50"],
        "busy_ping_p99": ping["p99"],
    }


def _cpu_share(contender: Meshd) -> float:
    """Of a CPU, what the busier router uses now."""
    pids = contender.pids()
    before = [cpu_seconds([pid]) for pid in pids]
    time.sleep(CPU_SECONDS)
    return max(cpu_seconds([pid]) - used for pid, used in zip(pids, before, strict=True)) / CPU_SECONDS


@dataclass(slots=True)
class Spread:
    """How long the last record needed to be known everywhere; known once the records have ended."""

    seconds: float = 0.0


@contextlib.contextmanager
def records(contender: Meshd) -> Iterator[Spread]:
    """Records arrive at both routers. Raises BenchError where they do not, or not as many as they should."""
    spread = Spread()
    lab, first = contender.lab, contender.routers[0]
    address = lab.address(0)
    where = (str(first.paths.key_file), f"{address}:6783", address, str(PORT), str(RECORDS_PER_SECOND))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    process = lab.spawn(lab.host(0), sys.executable, "-m", "bench.churn", *where, env=env, pipes=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        next_line(process, "the member that publishes records (bench.churn) cannot join the mesh")
        yield spread
        process.stdin.close()
        said = json.loads(next_line(process, "the member that publishes records (bench.churn) has ended"))
        if said["published"] < RECORDS_PER_SECOND * (said["seconds"] * ARRIVED_AT_LEAST - BEGINNING):
            raise BenchError(f"only {said['published']} records in {said['seconds']:.1f} s were published")
        spread.seconds = _arrived(contender, said["label"])
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_SECONDS)  # it takes its leave
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _arrived(contender: Meshd, label: str) -> float:
    """Wait until every router knows the last record; returns for how long."""
    began = time.monotonic()

    def known() -> bool:
        return all(
            any(mac["Label"] == label for mac in router.status()["Router"]["MACs"]) for router in contender.routers
        )

    wait_until(known, "the last record is not known everywhere", SPREAD_SECONDS)
    return time.monotonic() - began


@contextlib.contextmanager
def api(contender: Meshd) -> Iterator[None]:
    """`meshd status --json` without the command's own start, again and again, of both routers."""

    def ask(ended: threading.Event) -> None:
        while not ended.wait(1 / QUESTIONS_PER_SECOND):
            for router in contender.routers:
                with contextlib.suppress(BenchError):
                    router.status()

    with meanwhile("questions", ask):
        yield
