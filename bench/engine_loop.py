"""Measure an engine without a node against kernel VXLAN: TCP throughput, ping, small datagrams, CPU per GB. As root:

    python -m bench.engine_loop [--engine E] [--rounds N] [--seconds S] [--udp] [--no-offloads] [--profile FILE]

Engine and VXLAN take turns in every round, so that a noisy machine is noisy to both; trust the ratio. Exit status: 0 measured, 1
failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from bench import measure
from bench.contender import Contender
from bench.contenders import Vxlan
from bench.engine_alone import EngineAlone
from bench.results import Samples, figures_table, ratios
from bench.topology import BenchError, Lab, interruptible
from meshd.forward.engine.choice import ENGINES

ROUNDS = 3


def measured(options: argparse.Namespace) -> str:
    """All of it; returns what to show. Raises BenchError."""
    arguments = ["--engine", options.engine]
    if options.profile:
        arguments += ["--profile", str(options.profile.absolute())]
    samples, plan = Samples(), measure.Plan(seconds=options.seconds)
    with ExitStack() as labs:
        engine = EngineAlone(labs.enter_context(Lab(2, tag="e")), *arguments)
        contenders: list[Contender] = [engine, Vxlan(labs.enter_context(Lab(2, tag="v")))]
        for contender in contenders:
            contender.start()
            if options.no_offloads:
                contender.lab.set_offloads(False)
        for number in range(options.rounds):
            for contender in contenders:
                one_round(contender, plan, samples, udp=options.udp and number == 0)
        counted = engine.finish()
    shown = figures_table(samples, [contender.name for contender in contenders])
    ratio = ratios(samples, Vxlan.name).get(engine.name, {}).get("tcp1")
    return f"{shown}\n\nTCP 1 stream / kernel VXLAN: {ratio if ratio else '–'}\n{counted}"


def one_round(contender: Contender, plan: measure.Plan, samples: Samples, *, udp: bool) -> None:
    tcp = measure.tcp(contender, plan)
    ping = measure.ping(contender, plan.pings, plan.ping_interval)
    figures = {"tcp1": tcp["mbit"], "cpu_per_gb": tcp.get("cpu_per_gb")}
    figures |= {"ping_p50": ping["p50"], "ping_p99": ping["p99"]}
    if udp:
        flood = measure.flood(contender, plan)
        figures |= {"flood64": flood, "udp64": measure.udp_rate(contender, plan, flood)[0]}
    for name, value in figures.items():
        if value is not None:
            samples.add(contender.name, name, value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_loop", description="An engine without a node.")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"(default {ROUNDS})")
    parser.add_argument("--seconds", type=int, default=measure.Plan().seconds, metavar="S", help="of each TCP transfer")
    parser.add_argument("--udp", action="store_true", help="also 64 B datagrams: a flood, and the rate without loss")
    parser.add_argument("--no-offloads", action="store_true", help="of the underlay: nearer to a plain NIC")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="cProfile statistics to FILE.0 and FILE.1 (slows the routers down)"
    )
    options = parser.parse_args()
    options.rounds, options.seconds = max(options.rounds, 1), max(options.seconds, 1)
    try:
        with interruptible():
            print(measured(options), end="")
    except BenchError as error:
        print(f"bench.engine_loop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench.engine_loop: interrupted; everything that it made is gone", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
