"""Measure meshd on this machine, beside the kernel's VXLAN and no overlay at all: `make bench`, or as root

    python -m bench [--quick] [--rounds N] [--seconds S] [--only NAME,…] [--peers] [--json FILE]

All contenders are up in one lab and take turns figure by figure, round by round, so that a machine that is busy for a while is so
for all of them. Exit status: 0 all was measured (whether or not a target was met), 1 something could not run, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import measure
from bench.contenders import CONTENDERS, PEERS, Contender, make
from bench.meshing import mesh_time
from bench.progress import Progress, progress
from bench.results import Samples, figures_table, targets_table
from bench.topology import BenchError, Lab, interruptible
from meshd import __version__

RESULTS = Path(__file__).parent / "results"
QUICK = measure.Plan(seconds=2, pings=400, udp_seconds=1, udp_step=6.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One figure (or some that come of one run) of one contender."""

    text: str
    run: Callable[[], None]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure meshd beside other ways to do it.")
    parser.add_argument("--quick", action="store_true", help="one short round: is anything far off?")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds (default 3)")
    parser.add_argument("--seconds", type=_positive, metavar="S", help="of each TCP transfer (default 5)")
    parser.add_argument("--only", metavar="NAME,…", help=f"some of {', '.join(CONTENDERS)}")
    parser.add_argument("--peers", action="store_true", help="other overlays too (make bench-peers installs them)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to (default: bench/results/DATE.json)")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def chosen(only: str | None, peers: bool) -> list[str]:
    """Names in the order of CONTENDERS. Raises BenchError."""
    if not only:
        return [name for name in CONTENDERS if peers or name not in PEERS]
    names = only.replace(",", " ").split()
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise BenchError(f"no contender {unknown[0]}; there are {', '.join(CONTENDERS)}")
    return [name for name in CONTENDERS if name in names]


def steps(contenders: list[Contender], samples: Samples, plan: measure.Plan) -> Iterator[Step]:
    """One round."""

    def each(text: str, record: Callable[[Contender], None]) -> Iterator[Step]:
        for contender in contenders:
            yield Step(f"{contender.title}: {text}", lambda contender=contender: record(contender))  # type: ignore[misc]

    def keep(contender: Contender, **figures: float | None) -> None:
        for name, value in figures.items():
            if value is not None:
                samples.add(contender.name, name, value)

    def tcp1(contender: Contender) -> None:
        got = measure.tcp(contender, plan)
        keep(contender, tcp1=got["mbit"], cpu_per_gb=got.get("cpu_per_gb"), rss_mib=got.get("rss_mib"))

    def tcp_plain_nic(contender: Contender) -> None:
        contender.lab.set_offloads(False, *contender.devices)
        try:
            keep(contender, tcp1_plain_nic=measure.tcp(contender, plan)["mbit"])
        finally:
            contender.lab.set_offloads(True, *contender.devices)

    def ping(contender: Contender) -> None:
        got = measure.ping(contender, plan)
        keep(contender, ping_p50=got["p50"], ping_p99=got["p99"])

    def loaded(contender: Contender) -> None:
        got = measure.loaded_ping(contender, plan)
        keep(contender, loaded_p50=got["p50"], loaded_p99=got["p99"])

    yield from each("TCP, one stream", tcp1)
    yield from each(
        "TCP, four streams", lambda contender: keep(contender, tcp4=measure.tcp(contender, plan, 4)["mbit"])
    )
    yield from each("TCP, offloads off", tcp_plain_nic)
    yield from each("ping", ping)
    yield from each("ping beside bulk", loaded)
    yield from each("UDP, 64 bytes", lambda contender: keep(contender, udp64=measure.udp_rate(contender, plan)))


def joining(samples: Samples) -> Step:
    def record() -> None:
        got = mesh_time()
        samples.add("meshd", "mesh_s", got["mesh"])
        samples.add("meshd", "launch_s", got["launch"])

    return Step("meshd: three hosts join", record)


@dataclass(slots=True)
class Outcome:
    samples: Samples = field(default_factory=Samples)
    titles: dict[str, str] = field(default_factory=dict)  # by contender
    failures: list[str] = field(default_factory=list)


def bench(names: list[str], rounds: int, plan: measure.Plan, shown: Progress) -> Outcome:
    """A step that fails costs its own figure, not the run. Raises BenchError where nothing could be set up."""
    outcome = Outcome()
    samples = outcome.samples
    with Lab() as lab:
        shown.say(f"setting up {', '.join(names)}")
        contenders = make(names, lab)
        outcome.titles = {contender.name: f"{contender.title}, MTU {contender.mtu()}" for contender in contenders}
        plans = [list(steps(contenders, samples, plan)) for _ in range(rounds)]
        if "meshd" in names:
            for one in plans:
                one.append(joining(samples))
        shown.total(sum(len(one) for one in plans))
        for number, one in enumerate(plans, 1):
            for step in one:
                shown.step(f"round {number} of {rounds}: {step.text}")
                try:
                    step.run()
                except BenchError as error:
                    outcome.failures.append(f"round {number}, {step.text}: {error}")
    return outcome


def write(file: Path, samples: Samples, rounds: int, plan: measure.Plan) -> None:
    about = {
        "version": __version__,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "rounds": rounds,
        "seconds": plan.seconds,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"about": about, "contenders": samples.as_json()}, indent=2) + "\n")


def main() -> int:
    options = arguments()
    rounds = options.rounds or (1 if options.quick else 3)
    plan = QUICK if options.quick else measure.Plan()
    if options.seconds:
        plan = measure.Plan(
            seconds=options.seconds, pings=plan.pings, udp_seconds=plan.udp_seconds, udp_step=plan.udp_step
        )
    try:
        names = chosen(options.only, options.peers)
        with interruptible(), progress() as shown:
            outcome = bench(names, rounds, plan, shown)
        file = options.json or RESULTS / f"{time.strftime('%Y-%m-%d-%H%M%S')}.json"
        write(file, outcome.samples, rounds, plan)
    except (BenchError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything that it made is gone", file=sys.stderr)
        return 130
    print(f"\n{figures_table(outcome.samples, outcome.titles)}\n")
    if "meshd" in names:
        print(f"{targets_table(outcome.samples)}\n")
    print(f"{rounds} rounds on {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; trust ratios. Every round: {file}")
    for failure in outcome.failures:
        print(f"bench: could not be measured: {failure}", file=sys.stderr)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
