"""How long traffic stops when the direct path between two hosts is cut, as root:

    python -m bench.failover [--runs N] [--engine E] [--json FILE]

Three hosts; a ping every 20 ms goes from a container on host 1 to one on host 2. The path between these two hosts is cut silently,
the mesh finds the way through host 3, the path is mended, the mesh goes back to it. The gap is the longest time between two
answers, less the 20 ms that always lie between them: once around the cut, once around the way back. Each run has routers of its
own: a path that dies again and again is gone back to later and later (`forward.paths.HOLD`), which is not what is measured here.
Exit status: 0 measured, 1 failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measure import percentile
from bench.progress import Progress, progress
from bench.relaying import Trio, trio
from bench.results import table
from bench.topology import BenchError, interruptible

RUNS = 20
INTERVAL = 0.02
SETTLE = 1.0
NEVER_ENDS = "100000"


def gap(text: str) -> float:
    """Seconds that are missing between two answers of `ping -D`, at the worst place. Raises BenchError."""
    times = [float(stamp) for stamp in re.findall(r"^\[([0-9.]+)\] \d+ bytes from", text, re.MULTILINE)]
    if len(times) < 2:
        raise BenchError("hardly any ping was answered")
    return max(0.0, max(after - before for before, after in itertools.pairwise(times)) - INTERVAL)


class Pinging:
    """A ping that goes on beside what the block does; `gap` afterwards."""

    def __init__(self, made: Trio) -> None:
        near, far = made.ends
        self._lab, self._command = made.lab, ("ping", "-n", "-D", "-i", str(INTERVAL), "-c", NEVER_ENDS, far.address)
        self._space = near.space
        self.gap = 0.0

    def __enter__(self) -> Pinging:
        self._process = self._lab.spawn(self._space, *self._command, output=self._lab.folder / "ping")
        time.sleep(SETTLE)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            time.sleep(SETTLE)
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        if kind is None:
            self.gap = gap((self._lab.folder / "ping").read_text())


def run_once(made: Trio) -> tuple[float, float]:
    """(gap around the cut, gap around the way back), in seconds. Raises BenchError."""
    with Pinging(made) as away:
        made.set_cut(True)
        made.await_relay()
    with Pinging(made) as back:
        made.set_cut(False)
        made.await_direct()
    return away.gap, back.gap


def measured(engine: str, runs: int, shown: Progress) -> tuple[list[float], list[float]]:
    shown.total(runs)
    found = []
    for number in range(1, runs + 1):
        shown.step(f"cut {number} of {runs}")
        with trio(engine) as made:
            made.await_direct()
            found.append(run_once(made))
    return [away for away, _ in found], [back for _, back in found]


def summary(gaps: dict[str, Sequence[float]]) -> str:
    rows = [["gap, s", "p50", "p99", "shortest", "longest"]]
    for title, values in gaps.items():
        each = (statistics.median(values), percentile(list(values), 0.99), min(values), max(values))
        rows.append([title, *(f"{value:.2f}" for value in each)])
    return table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description="How long a cut path stops traffic.")
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"cuts (default {RUNS})")
    parser.add_argument("--engine", default="auto", help="as of `meshd launch` (default: auto)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all gaps there")
    options = parser.parse_args()
    try:
        with interruptible(), progress() as shown:
            away, back = measured(options.engine, max(options.runs, 1), shown)
    except BenchError as error:
        print(f"bench.failover: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench.failover: interrupted; everything that it made is gone", file=sys.stderr)
        return 130
    print(summary({"the direct path is cut": away, "it comes back": back}))
    if options.json:
        options.json.write_text(json.dumps({"cut": away, "back": back}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
