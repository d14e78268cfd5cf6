"""Measure meshd on this machine, beside the kernel's VXLAN, no overlay at all, and other overlays: `make bench`, or as root

    python -m bench [--quick] [--rounds N] [--seconds S] [--only NAME,…] [--measures NAME,…] [--peers | --no-peers]
                    [--json FILE] [--svg FILE]

All contenders are up at once, each in namespaces of its own, and take turns figure by figure, round by round, so that a machine
that is busy for a while is so for all of them. What is not installed is left out, with a line. Exit status: 0 all was measured
(whether or not a target was met), 1 something could not run, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import targets
from bench.chart import chart
from bench.contender import Contender
from bench.contenders import CONTENDERS, Bare, make
from bench.measure import Plan
from bench.measures import MEASURES, Round, steps
from bench.progress import Progress, progress
from bench.results import Samples, figures_table, ratios, titles_table
from bench.topology import BenchError, Lab, interruptible
from bench.wan import WanLab
from meshd import __version__

RESULTS = Path(__file__).parent / "results"
QUICK = Plan(seconds=2, pings=300, udp_seconds=0.6, udp_step=12.0, wan_seconds=4)
ROUNDS = 3
FAR_TAG = "w"  # of the labs with a long path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure meshd beside other ways to do it.")
    parser.add_argument("--quick", action="store_true", help="one short round without peers: is anything far off?")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"rounds (default {ROUNDS})")
    parser.add_argument(
        "--seconds", type=_positive, metavar="S", help=f"of each TCP transfer (default {Plan().seconds})"
    )
    parser.add_argument("--only", metavar="NAME,…", help=f"some of {', '.join(CONTENDERS)}")
    parser.add_argument("--measures", metavar="NAME,…", help=f"some of {', '.join(MEASURES)}")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        help="other overlays, those that are installed (default: unless --quick; make bench-peers installs them)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to (default: bench/results/DATE.json)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="the plot (default: beside the JSON)")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def chosen(only: str | None, peers: bool) -> list[str]:
    """Names of contenders, in the order of CONTENDERS. Raises BenchError."""
    if not only:
        return [name for name, kind in CONTENDERS.items() if peers or not kind.peer]
    return _some(only, list(CONTENDERS), "contender")


def chosen_measures(only: str | None) -> list[str]:
    """Raises BenchError."""
    return _some(only, list(MEASURES), "measure") if only else list(MEASURES)


def _some(text: str, known: list[str], what: str) -> list[str]:
    names = text.replace(",", " ").split()
    if unknown := [name for name in names if name not in known]:
        raise BenchError(f"no {what} {unknown[0]}; there are {', '.join(known)}")
    return [name for name in known if name in names]


@dataclass(slots=True)
class Outcome:
    samples: Samples = field(default_factory=Samples)
    titles: dict[str, str] = field(default_factory=dict)  # by contender
    left_out: list[str] = field(default_factory=list)  # what this machine or this meshd does not have
    failures: list[str] = field(default_factory=list)


def bench(
    names: list[str], measures: list[str], rounds: int, plan: Plan, shown: Progress, quick: bool = False
) -> Outcome:
    """A step that fails costs its own figure, not the run."""
    outcome = Outcome()
    present = []
    for name in names:
        if missing := CONTENDERS[name].missing():
            outcome.left_out.append(f"{name}: {missing}")
        else:
            present.append(CONTENDERS[name])
    with ExitStack() as labs:
        shown.say(f"setting up {', '.join(kind.name for kind in present)}")
        made = make(present, labs, lambda tag: Lab(2, tag=tag), outcome.failures.append)
        far = _far_away(present, labs, outcome) if "wan" in measures else []
        outcome.titles = {
            contender.name: f"{contender.title}, MTU {contender.mtu()}, {contender.note}" for contender in made
        }
        first = Round(
            number=1,
            plan=plan,
            measures=measures,
            samples=outcome.samples,
            contenders=made,
            far=far,
            quick=quick,
            keep_open=labs,
        )
        plans = [list(steps(replace(first, number=number))) for number in range(1, rounds + 1)]
        shown.total(sum(len(one) for one in plans))
        for number, one in enumerate(plans, 1):
            for step in one:
                shown.step(f"round {number} of {rounds}: {step.text}")
                try:
                    step.run()
                except BenchError as error:
                    outcome.failures.append(f"round {number}, {step.text}: {error}")
    return outcome


def _far_away(present: list[type[Contender]], labs: ExitStack, outcome: Outcome) -> list[Contender]:
    """meshd's engines over a long path, and TCP without any overlay to compare them with."""
    engines = [kind for kind in present if kind.name in targets.ENGINES]
    if not engines:
        return []
    return make([Bare, *engines], labs, lambda tag: WanLab(2, tag=FAR_TAG + tag), outcome.failures.append)


def write(file: Path, outcome: Outcome, rounds: int, plan: Plan) -> None:
    about = {
        "version": __version__,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "rounds": rounds,
        "seconds": plan.seconds,
        "titles": outcome.titles,
        "left_out": outcome.left_out,
    }
    found = {
        "about": about,
        "contenders": outcome.samples.as_json(),
        "of_vxlan": ratios(outcome.samples, "vxlan"),
        "targets": targets.as_json(outcome.samples),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2) + "\n")


def show(outcome: Outcome, rounds: int, file: Path) -> None:
    samples = outcome.samples
    print(f"\n{titles_table(outcome.titles)}\n\n{figures_table(samples, [*outcome.titles, 'bare'])}\n")
    if any(engine in outcome.titles for engine in targets.ENGINES):
        print(f"{targets.targets_table(samples)}\n")
    print(f"{rounds} rounds on {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; trust ratios. Every round: {file}")
    for line in outcome.left_out:
        print(f"bench: left out: {line}", file=sys.stderr)
    for line in outcome.failures:
        print(f"bench: could not be measured: {line}", file=sys.stderr)


def main() -> int:
    options = arguments()
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    plan = QUICK if options.quick else Plan()
    if options.seconds:
        plan = replace(plan, seconds=options.seconds)
    file = options.json or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    try:
        peers = not options.quick if options.peers is None else options.peers
        names, measures = chosen(options.only, peers), chosen_measures(options.measures)
        with interruptible(), progress() as shown:
            outcome = bench(names, measures, rounds, plan, shown, options.quick)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything that it made is gone", file=sys.stderr)
        return 130
    write(file, outcome, rounds, plan)
    (options.svg or file.with_suffix(".svg")).write_text(chart(outcome.samples, outcome.titles))
    show(outcome, rounds, file)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
