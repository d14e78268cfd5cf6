"""What was measured, over all rounds: medians, spread, ratios, targets, as tables of text and as JSON.

A *sample* is one figure of one round. A figure has a name (`tcp1`), a unit and a direction; the targets say what the python
engine has to reach, absolutely or as a ratio against another contender's median in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["FIGURES", "TARGETS", "Figure", "Samples", "Target", "figures_table", "judge", "table", "targets_table"]


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    title: str
    digits: int = 0


FIGURES = (
    Figure("tcp1", "TCP 1 stream, Mbit/s"),
    Figure("tcp4", "TCP 4 streams, Mbit/s"),
    Figure("tcp1_plain_nic", "TCP 1 stream, offloads off, Mbit/s"),
    Figure("udp64", "UDP 64 B without loss, kpps"),
    Figure("ping_p50", "ping p50, µs"),
    Figure("ping_p99", "ping p99, µs"),
    Figure("loaded_p50", "ping p50 beside bulk, µs"),
    Figure("loaded_p99", "ping p99 beside bulk, µs"),
    Figure("cpu_per_gb", "CPU of both routers, s per GB", 2),
    Figure("rss_mib", "RSS of a router, MiB", 1),
    Figure("mesh_s", "3 hosts: launch returned to all joined, s", 2),
    Figure("launch_s", "3 hosts: the last launch, s", 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`least` or `most` for meshd's median; with `against` for its ratio to that contender's."""

    figure: str
    title: str
    against: str = ""
    least: float | None = None
    most: float | None = None
    aim: str = ""
    digits: int = 2


TARGETS = (
    Target(figure="tcp1", title="TCP 1 stream / kernel VXLAN", against="vxlan", least=0.15, aim="0.25"),
    Target(figure="tcp1_plain_nic", title="the same, offloads off", against="vxlan", least=0.3),
    Target(figure="tcp1", title="TCP 1 stream / wireguard-go", against="wireguard-go", least=4.0),
    Target(figure="udp64", title="UDP 64 B without loss / kernel VXLAN", against="vxlan", least=0.3),
    Target(figure="ping_p50", title="ping p50, µs", most=250, digits=0),
    Target(figure="ping_p99", title="ping p99, µs", most=800, digits=0),
    Target(figure="loaded_p99", title="ping p99 beside bulk, µs", most=5000, digits=0),
    Target(figure="cpu_per_gb", title="CPU of both routers, s per GB", most=4.0),
    Target(figure="rss_mib", title="RSS of a router, MiB", most=80, aim="60", digits=1),
    Target(figure="mesh_s", title="3 hosts joined after the last launch, s", most=1.0),
)


@dataclass
class Samples:
    """By contender and figure, one value a round."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, contender: str, figure: str, value: float) -> None:
        self.values.setdefault(contender, {}).setdefault(figure, []).append(value)

    def of(self, contender: str, figure: str) -> list[float]:
        return self.values.get(contender, {}).get(figure, [])

    def median(self, contender: str, figure: str) -> float | None:
        values = self.of(contender, figure)
        return statistics.median(values) if values else None

    def as_json(self) -> dict[str, object]:
        return {
            contender: {
                name: {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}
                for name, values in figures.items()
            }
            for contender, figures in self.values.items()
        }


def judge(samples: Samples, target: Target) -> tuple[float | None, bool | None]:
    """(what it came to, whether that is enough); None where it was not measured."""
    value = samples.median("meshd", target.figure)
    if value is not None and target.against:
        other = samples.median(target.against, target.figure)
        value = value / other if other else None
    if value is None:
        return None, None
    return value, (target.least is None or value >= target.least) and (target.most is None or value <= target.most)


def figures_table(samples: Samples, titles: Mapping[str, str]) -> str:
    """A row for each figure, a column for each contender: median (lowest–highest)."""
    rows = [["", *titles.values()]]
    for figure in FIGURES:
        cells = [_cell(samples.of(name, figure.name), figure.digits) for name in titles]
        if any(cell != "–" for cell in cells):
            rows.append([figure.title, *cells])
    return table(rows)


def targets_table(samples: Samples) -> str:
    rows = [["target (python engine)", "wanted", "measured", "", ""]]
    for target in TARGETS:
        value, met = judge(samples, target)
        sign, limit = ("≥", target.least) if target.least is not None else ("≤", target.most)
        shown = "–" if value is None else f"{value:.{target.digits}f}"
        verdict = {None: "not measured", True: "met", False: "missed"}[met]
        rows.append([target.title, f"{sign} {limit:g}", shown, verdict, f"aim {target.aim}" if target.aim else ""])
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, the first one to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, rest = (
            row[0].ljust(widths[0]),
            [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)],
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"
