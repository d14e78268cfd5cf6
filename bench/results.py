"""What was measured, over all rounds: medians and spread, as a table of text and as JSON.

A *sample* is one figure of one round; a figure has a name (`tcp1`) and a unit. Names that begin with `nic_` were measured with the
underlay's segmentation offloads off.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["FIGURES", "Figure", "Samples", "figures_table", "ratios", "table", "titles_table"]


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    title: str
    digits: int = 0


ON_THE_WAY = (
    Figure("tcp1", "TCP 1 stream, Mbit/s"),
    Figure("tcp4", "TCP 4 streams, Mbit/s"),
    Figure("udp64", "UDP 64 B without loss, kpps"),
    Figure("flood64", "UDP 64 B flood, kpps that arrive"),
    Figure("ping_p50", "ping p50, µs"),
    Figure("ping_p99", "ping p99, µs"),
    Figure("loaded_p50", "ping p50 beside bulk, µs"),
    Figure("loaded_p99", "ping p99 beside bulk, µs"),
    Figure("cpu_per_gb", "CPU of both routers, s per GB", 2),
    Figure("cpu_per_packet", "CPU of both routers, µs per 64 B packet", 1),
)
FIGURES = (
    *ON_THE_WAY,
    *(replace(figure, name=f"nic_{figure.name}", title=f"offloads off: {figure.title}") for figure in ON_THE_WAY),
    Figure("rss_mib", "RSS of a router, MiB", 1),
    Figure("lag_p99", "event loop's lag p99 after bulk, ms", 1),
    Figure("slow", "callbacks over 2 ms, a second of bulk", 1),
    Figure("wan_01", "TCP 4 streams, 20 ms and 0.1 % loss, Mbit/s", 1),
    Figure("wan_1", "TCP 4 streams, 20 ms and 1 % loss, Mbit/s", 1),
    Figure("busy_records", "TCP beside 1000 records/s, of quiet", 2),
    Figure("busy_cpu", "CPU of a router, 1000 records/s and no traffic", 2),
    Figure("busy_spread", "the last record known everywhere, s", 2),
    Figure("busy_api", "TCP beside a busy API, of quiet", 2),
    Figure("busy_ping_p50", "ping p50 beside records and API, µs"),
    Figure("busy_ping_p99", "ping p99 beside records and API, µs"),
    Figure("load_kpps", "at 80 % of the loss-free rate, kpps", 1),
    Figure("load_lost", "lost there, of a million"),
    Figure("load_queues", "dropped there by full queues, of a million"),
    Figure("load_other", "dropped there for other reasons, of a million"),
    Figure("relay_tcp", "TCP through a relay, Mbit/s"),
    Figure("relay_share", "TCP through a relay, of direct", 2),
    Figure("relay_ping", "ping p50 through a relay, µs"),
    Figure("mesh_s", "3 hosts: launch returned to all joined, s", 2),
    Figure("launch_s", "3 hosts: the last launch, s", 2),
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


def ratios(samples: Samples, base: str) -> dict[str, dict[str, float]]:
    """By contender and figure, its median against that of `base`."""
    found: dict[str, dict[str, float]] = {}
    for contender, figures in samples.values.items():
        for name in figures:
            mine, other = samples.median(contender, name), samples.median(base, name)
            if contender != base and mine is not None and other:
                found.setdefault(contender, {})[name] = round(mine / other, 4)
    return found


def figures_table(samples: Samples, names: Iterable[str]) -> str:
    """A row for each figure, a column for each contender: median (lowest–highest)."""
    names = list(names)
    rows = [["", *names]]
    for figure in FIGURES:
        cells = [_cell(samples.of(name, figure.name), figure.digits) for name in names]
        if any(cell != "–" for cell in cells):
            rows.append([figure.title, *cells])
    return table(rows)


def titles_table(titles: Mapping[str, str]) -> str:
    return table([[name, text] for name, text in titles.items()], left=2)


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as they need to be, the first ones to the left; "" without rows."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"
