"""Which figures make a round, in which order: measure by measure, and within each the contenders by turns.

A measure is what `--measures` names. Each yields steps; a step is one figure, or some that come of one run, of one contender.
The offloads that `nic` switches off are those of the contender's own devices, for as long as its step lasts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bench import busy, measure
from bench.contender import Contender
from bench.contenders import Meshd
from bench.loading import load_losses
from bench.meshing import mesh_time
from bench.relaying import Trio, relayed, trio
from bench.results import Samples
from bench.wan import WanLab, check_losses

__all__ = ["MEASURES", "Round", "Step", "steps"]

MEASURES = {
    "tcp": "TCP, 1 and 4 streams; CPU, memory and loop of the routers",
    "udp": "64 B datagrams: the highest rate without loss, and a flood",
    "ping": "round trip times, nothing else going on",
    "mixed": "round trip times beside a bulk transfer",
    "nic": "all of these with the underlay's segmentation offloads off",
    "wan": "TCP over 20 ms with 0.1 % and 1 % of loss",
    "busy": "meshd while 1000 records a second arrive and its API is asked",
    "load": "meshd at 80 % of its loss-free rate, while keys, containers and floods go on: what is lost",
    "relay": "meshd through a third host",
    "join": "meshd: how soon a third host is in the mesh",
}
ON_THE_WAY = ("tcp", "udp", "ping", "mixed")
LOSSES = {"wan_01": 0.001, "wan_1": 0.01}
WAN_STREAMS = 4
CUBIC = ("-C", "cubic")  # the machine's default may be BBR, which takes no notice of loss


@dataclass(frozen=True, slots=True)
class Step:
    """What it is called, and what it does."""

    text: str
    run: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Everything that a round measures."""

    number: int
    plan: measure.Plan
    measures: Sequence[str]
    samples: Samples
    contenders: Sequence[Contender]
    far: Sequence[Contender] = ()  # in WanLabs
    quick: bool = False
    keep_open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    trios: dict[str, Trio] = field(default_factory=dict)  # by contender, made when first needed

    def keep(self, contender: str, prefix: str = "", **figures: float | None) -> None:
        for name, value in figures.items():
            if value is not None:
                self.samples.add(contender, prefix + name, value)


def steps(one: Round) -> Iterator[Step]:
    for name in ON_THE_WAY:
        if name in one.measures:
            all_of_them = name != "udp"
            yield from _by_turns(
                one, name, [one_of for one_of in one.contenders if all_of_them or not _variant(one_of)]
            )
    if "nic" in one.measures:
        for name in ("tcp",) if one.quick else ON_THE_WAY:
            yield from _by_turns(one, name, _with_plain_nic(one, name), plain_nic=True)
    if "wan" in one.measures:
        yield from _far(one)
    for contender in one.contenders:
        if isinstance(contender, Meshd):
            yield from _of_meshd(one, contender)


def _with_plain_nic(one: Round, name: str) -> list[Contender]:
    """The other projects' overlays have no use for offloads and hardly change: rates, and those once, are enough."""
    rates = one.number == 1 and name in ("tcp", "udp")
    return [contender for contender in one.contenders if not _variant(contender) and (rates or not contender.peer)]


def _variant(contender: Contender) -> bool:
    """Another way to run an engine that is measured anyway."""
    return isinstance(contender, Meshd) and bool(contender.more)


def _by_turns(one: Round, name: str, contenders: Sequence[Contender], plain_nic: bool = False) -> Iterator[Step]:
    for contender in contenders:
        for text, work in WORK[name]:
            if plain_nic:
                yield Step(f"{contender.title}: {text}, offloads off", _without_offloads(one, contender, work))
            else:
                yield Step(f"{contender.title}: {text}", _bound(one, contender, work))


Work = Callable[[Round, Contender, str], None]


def _bound(one: Round, contender: Contender, work: Work) -> Callable[[], None]:
    return lambda: work(one, contender, "")


def _without_offloads(one: Round, contender: Contender, work: Work) -> Callable[[], None]:
    def run() -> None:
        contender.lab.set_offloads(False, *contender.devices)
        try:
            work(one, contender, "nic_")
        finally:
            contender.lab.set_offloads(True, *contender.devices)

    return run


def _tcp1(one: Round, contender: Contender, prefix: str) -> None:
    router = contender.routers[1] if isinstance(contender, Meshd) and not prefix else None
    slow = router.loop()[1] if router else 0
    got = measure.tcp(contender, one.plan)
    one.keep(contender.name, prefix, tcp1=got["mbit"], cpu_per_gb=got.get("cpu_per_gb"))
    if router:
        lag, slow_now = router.loop()
        one.keep(contender.name, lag_p99=lag, slow=(slow_now - slow) / one.plan.seconds)
    if not prefix:
        one.keep(contender.name, rss_mib=got.get("rss_mib"))


def _tcp4(one: Round, contender: Contender, prefix: str) -> None:
    one.keep(contender.name, prefix, tcp4=measure.tcp(contender, one.plan, 4)["mbit"])


def _ping(one: Round, contender: Contender, prefix: str) -> None:
    got = measure.ping(contender, one.plan.pings, one.plan.ping_interval)
    one.keep(contender.name, prefix, ping_p50=got["p50"], ping_p99=got["p99"])


def _loaded(one: Round, contender: Contender, prefix: str) -> None:
    got = measure.loaded_ping(contender, one.plan)
    one.keep(contender.name, prefix, loaded_p50=got["p50"], loaded_p99=got["p99"])


def _udp(one: Round, contender: Contender, prefix: str) -> None:
    flood = measure.flood(contender, one.plan)
    rate, how = measure.udp_rate(contender, one.plan, flood)
    one.keep(contender.name, prefix, flood64=flood, udp64=rate)
    if how is not None and how.cpu:
        one.keep(contender.name, prefix, cpu_per_packet=how.cpu_us)


WORK: dict[str, tuple[tuple[str, Work], ...]] = {
    "tcp": (("TCP, one stream", _tcp1), ("TCP, four streams", _tcp4)),
    "udp": (("UDP, 64 bytes", _udp),),
    "ping": (("ping", _ping),),
    "mixed": (("ping beside bulk", _loaded),),
}


def _far(one: Round) -> Iterator[Step]:
    """One seed a round for all, so that the same frames are lost, as far as they are the same."""
    plan = replace(one.plan, seconds=one.plan.wan_seconds)
    for figure, loss in LOSSES.items():
        if one.quick and figure != "wan_1":
            continue
        for contender in one.far:

            def run(contender: Contender = contender, figure: str = figure, loss: float = loss) -> None:
                assert isinstance(contender.lab, WanLab)
                contender.lab.impair(loss, one.number)
                try:
                    got = measure.tcp(contender, plan, WAN_STREAMS, *CUBIC)
                finally:
                    ways = contender.lab.impair(0.0, 0)
                check_losses(ways, loss)
                one.keep(contender.name, "", **{figure: got["mbit"]})

            yield Step(f"{contender.title}: TCP, 20 ms and {loss:.1%} loss", run)


def _of_meshd(one: Round, contender: Meshd) -> Iterator[Step]:
    def joining() -> None:
        got = mesh_time(contender.engine)
        one.keep(contender.name, mesh_s=got["mesh"], launch_s=got["launch"])

    def through_relay() -> None:
        if contender.name not in one.trios:
            tag = f"r{len(one.trios)}"
            one.trios[contender.name] = one.keep_open.enter_context(trio(contender.engine, tag))
        one.keep(contender.name, "", **relayed(one.trios[contender.name], one.plan))

    if "busy" in one.measures:
        yield Step(
            f"{contender.title}: TCP while its loop is busy",
            lambda: one.keep(contender.name, "", **busy.keeps(contender, one.plan)),
        )
    if _variant(contender):
        return
    if "load" in one.measures:
        yield Step(
            f"{contender.title}: what is lost at 80 % of the rate without loss",
            lambda: one.keep(contender.name, "", **load_losses(contender.engine, one.plan)),
        )
    if "relay" in one.measures:
        yield Step(f"{contender.title}: TCP through a relay", through_relay)
    if "join" in one.measures:
        yield Step(f"{contender.title}: three hosts join", joining)
