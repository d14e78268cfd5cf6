"""Where the routers' time goes during a bulk transfer, as root:

    python -m bench.profile [--engine E] [--seconds S] [--offloads-off]

The kernel's share is user against system time of each router's process, from /proc, and so is exact on every machine. With perf
(Debian's linux-perf) there is more: shares by object and by function, from samples. Time that the kernel spends for a router in an
interrupt during somebody else's turn is in neither.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from bench import measure
from bench.contender import cpu_seconds, system_seconds
from bench.contenders import Meshd, MeshdNative, MeshdPython
from bench.results import table
from bench.topology import BenchError, Lab, interruptible, run

SECONDS = 5
FUNCTIONS = 20
ROLES = ("sender", "receiver")


@dataclass(frozen=True, slots=True)
class Share:
    """One line of perf's report."""

    percent: float
    what: str


def shares(report: str) -> list[Share]:
    """The lines of `perf report --stdio` that have a percentage."""
    found = re.findall(r"^\s*([0-9.]+)%\s+(.*\S)\s*$", report, re.MULTILINE)
    return [Share(float(percent), re.sub(r"\s{2,}", "  ", what.rstrip("- "))) for percent, what in found]


def kernel_share(objects: list[Share]) -> float:
    """What of it was inside the kernel, modules included, in percent: perf writes those in brackets."""
    return sum(share.percent for share in objects if share.what.startswith("[") and share.what != "[unknown]")


@dataclass(slots=True)
class Profile:
    """One router."""

    role: str
    used: float  # CPU seconds
    kernel: float  # of which system time
    objects: list[Share]
    functions: list[Share]


def profile(contender: Meshd, seconds: int) -> tuple[float, list[Profile]]:
    """(Mbit/s, one profile a router). Raises BenchError."""
    pids, lab = contender.pids(), contender.lab
    files = [lab.folder / f"perf.{role}" for role in ROLES]
    with measure.bulk(contender):
        before = [(cpu_seconds([pid]), system_seconds([pid])) for pid in pids]
        if which("perf"):
            for pid, file in zip(pids, files, strict=True):
                rest = ("-o", str(file), "-p", str(pid), "--", "sleep", str(seconds))
                lab.spawn(lab.host(0), "perf", "record", "-q", *rest)
        time.sleep(seconds + 1)
        after = [(cpu_seconds([pid]), system_seconds([pid])) for pid in pids]
    speed = measure.tcp(contender, measure.Plan(seconds=seconds))["mbit"]
    found = []
    for role, file, (used, kernel), (used_now, kernel_now) in zip(ROLES, files, before, after, strict=True):
        objects, functions = (_report(file, key) for key in ("dso", "dso,symbol"))
        found.append(Profile(role, used_now - used, kernel_now - kernel, objects, functions))
    return speed, found


def _report(file: Path, key: str) -> list[Share]:
    if not file.exists():
        return []
    try:
        return shares(run("perf", "report", "--stdio", "--sort", key, "--percent-limit", "0.5", "-i", str(file)))
    except BenchError:
        return []  # perf is there and cannot count here, as in many virtual machines


def text(speed: float, profiles: list[Profile]) -> str:
    lines = [f"TCP, one stream: {speed:.0f} Mbit/s"]
    rows = [["", *(one.role for one in profiles)]]
    rows.append(["CPU, seconds", *(f"{one.used:.2f}" for one in profiles)])
    rows.append(["in the kernel", *(f"{one.kernel / one.used:.0%}" if one.used else "–" for one in profiles)])
    if all(one.objects for one in profiles):
        rows.append(["in the kernel, by perf", *(f"{kernel_share(one.objects):.0f}%" for one in profiles)])
    lines += ["", table(rows)]
    for one in profiles:
        for title, found in (("object", one.objects), ("function", one.functions[:FUNCTIONS])):
            if found:
                lines += ["", f"{one.role}, by {title}"]
                lines += [f"  {share.percent:5.1f} %  {share.what}" for share in found]
    if not any(one.objects for one in profiles):
        lines += ["", "shares by object and function need perf (Debian's linux-perf) and a machine that lets it count"]
    return "\n".join(lines)


def _contender(engine: str) -> type[Meshd]:
    """The engine's contender; `auto`: native where there is one. Raises BenchError."""
    if engine == "auto":
        engine = "python" if MeshdNative.missing() else "native"
    kind = {"native": MeshdNative, "python": MeshdPython}[engine]
    if missing := kind.missing():
        raise BenchError(missing)
    return kind


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="Where the routers' time goes.")
    parser.add_argument("--engine", choices=("auto", "native", "python"), default="auto")
    parser.add_argument("--seconds", type=int, default=SECONDS, metavar="S", help=f"(default {SECONDS})")
    parser.add_argument("--offloads-off", action="store_true", help="of the underlay: as over a plain NIC")
    options = parser.parse_args()
    try:
        with interruptible(), ExitStack() as labs:
            contender = _contender(options.engine)(labs.enter_context(Lab(2, tag="p")))
            contender.start()
            if options.offloads_off:
                contender.lab.set_offloads(False)
            print(text(*profile(contender, max(1, options.seconds))))
    except BenchError as error:
        print(f"bench.profile: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench.profile: interrupted; everything that it made is gone", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
