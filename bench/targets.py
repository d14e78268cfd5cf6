"""What each engine has to reach: absolutely, as a ratio against another contender's median of the same run, or against its own.

A limit is a pair, native engine and python engine; None where nothing is asked of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.results import Samples, table

__all__ = ["ENGINES", "TARGETS", "Target", "Verdict", "as_json", "judge", "targets_table"]

ENGINES = ("meshd-native", "meshd-python")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`least` or `most`, a limit for each of ENGINES; `aim` is what we would like."""

    figure: str
    title: str
    against: str = ""
    least: tuple[float, float | None] | None = None
    most: tuple[float, float | None] | None = None
    aim: tuple[str, str] = ("", "")
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """`value` and `met` are None where something was not measured; `met`, where nothing was wanted."""

    wanted: str
    value: float | None
    met: bool | None


TARGETS = (
    Target(
        figure="tcp1", title="TCP 1 stream / kernel VXLAN", against="vxlan", least=(0.55, 0.15), aim=("0.66", "0.25")
    ),
    Target(figure="nic_tcp1", title="the same, offloads off", against="vxlan", least=(0.8, 0.3)),
    Target(figure="tcp1", title="TCP 1 stream / wireguard-go", against="wireguard-go", least=(15, 4), digits=1),
    Target(
        figure="udp64", title="64 B without loss / kernel VXLAN", against="vxlan", least=(0.85, 0.3), aim=("1.1", "")
    ),
    Target(figure="ping_p50", title="ping p50, µs", most=(110, 250), aim=("80", ""), digits=0),
    Target(figure="ping_p99", title="ping p99, µs", most=(300, 800), digits=0),
    Target(figure="loaded_p99", title="ping p99 beside bulk, µs", most=(1500, 5000), digits=0),
    Target(figure="cpu_per_gb", title="CPU of both routers, s per GB", most=(1.2, 4.0), aim=("0.9", "")),
    Target(figure="busy_records", title="TCP beside 1000 records/s / quiet", least=(0.9, 0.7)),
    Target(figure="rss_mib", title="RSS of a router, MiB", most=(80, 80), aim=("60", "60"), digits=1),
    Target(figure="relay_share", title="TCP through a relay / direct", least=(0.4, None)),
    Target(figure="wan_1", title="TCP, 20 ms and 1 % loss / bare TCP", against="bare", least=(0.9, 0.9)),
    Target(figure="mesh_s", title="3 hosts joined after the last launch, s", most=(1.0, 1.0)),
)


def judge(samples: Samples, target: Target, engine: str) -> Verdict:
    number = ENGINES.index(engine)
    sign, limits = ("≥", target.least) if target.least else ("≤", target.most)
    assert limits is not None
    limit = limits[number]
    wanted = "–" if limit is None else f"{sign} {limit:g}"
    wanted += f", aim {target.aim[number]}" if target.aim[number] else ""
    value = samples.median(engine, target.figure)
    if value is not None and target.against:
        other = samples.median(target.against, target.figure)
        value = value / other if other else None
    if value is None or limit is None:
        return Verdict(wanted, value, None)
    return Verdict(wanted, value, value >= limit if target.least else value <= limit)


def targets_table(samples: Samples) -> str:
    """A row for each target, for each engine what was wanted and what came out."""
    rows = [["target", *(text for engine in ENGINES for text in (engine, "measured", ""))]]
    for target in TARGETS:
        row = [target.title]
        for engine in ENGINES:
            verdict = judge(samples, target, engine)
            shown = "–" if verdict.value is None else f"{verdict.value:.{target.digits}f}"
            row += [verdict.wanted, shown, {None: "", True: "met", False: "missed"}[verdict.met]]
        rows.append(row)
    return table(rows)


def as_json(samples: Samples) -> list[dict[str, object]]:
    """Those that could be judged."""
    return [
        {"engine": engine, "target": target.title, "wanted": verdict.wanted, "value": verdict.value, "met": verdict.met}
        for engine in ENGINES
        for target in TARGETS
        if (verdict := judge(samples, target, engine)).met is not None
    ]
