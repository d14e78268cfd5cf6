"""A plot of one run as SVG, written by hand: a dot for each median, a line from the lowest to the highest round, logarithmic axes.

Contenders lie between 0.1 and 15 Gbit/s: on a linear axis most of them would be one dot at zero, and bars on a logarithmic one have
no honest length. Each panel is one figure, with contenders in the same rows and colours throughout.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.results import Samples

__all__ = ["chart", "decades"]


@dataclass(frozen=True, slots=True)
class Panel:
    figure: str
    title: str
    better: str


PANELS = (
    Panel("tcp1", "TCP, one stream, Mbit/s", "more is better"),
    Panel("nic_tcp1", "the same, offloads off, Mbit/s", "more is better"),
    Panel("udp64", "64 B datagrams without loss, kpps", "more is better"),
    Panel("cpu_per_gb", "CPU of both routers, s per GB", "less is better"),
    Panel("ping_p50", "ping p50, µs", "less is better"),
    Panel("loaded_p99", "ping p99 beside bulk, µs", "less is better"),
)
COLUMNS = 2
WIDTH, MARGIN, NAMES, VALUES, HEAD, ROW, FOOT = 450, 16, 108, 52, 44, 20, 30
OURS, THEIRS, GRID, TEXT, PALE = "#0a7d4f", "#4a6fa5", "#e3e6ea", "#24292f", "#6e7781"
FONT = "font-family='system-ui,sans-serif'"


def chart(samples: Samples, names: Iterable[str]) -> str:
    """The SVG's text; panels that nobody was measured for are left out."""
    names = list(names)
    panels = [panel for panel in PANELS if any(_positive(samples.of(name, panel.figure)) for name in names)]
    height = HEAD + ROW * len(names) + FOOT
    parts, columns = [], min(COLUMNS, max(1, len(panels)))
    for number, panel in enumerate(panels):
        x, y = MARGIN + number % columns * (WIDTH + MARGIN), MARGIN + number // columns * (height + MARGIN)
        rows = {name: samples.of(name, panel.figure) for name in names}
        parts.append(f"<g transform='translate({x},{y})'>{_panel(panel, rows, height)}</g>")
    total_x = MARGIN + columns * (WIDTH + MARGIN)
    total_y = MARGIN + max(1, math.ceil(len(panels) / columns)) * (height + MARGIN)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {total_x} {total_y}' width='{total_x}' height='{total_y}' {FONT}>\n"
        f"<rect width='100%' height='100%' fill='#ffffff'/>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def decades(low: float, high: float) -> list[float]:
    """Ends of an axis at 1, 2 or 5 times a power of ten, with the ticks between them; at least two."""
    steps = [1.0, 2.0, 5.0]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    below, above = (
        max(mark for mark in marks if mark <= low * 1.0001),
        min(mark for mark in marks if mark >= high * 0.9999),
    )
    if below == above:
        above = marks[marks.index(above) + 1]
    return [mark for mark in marks if below <= mark <= above]


def _positive(values: Sequence[float]) -> list[float]:
    """A logarithmic axis has no zero."""
    return [value for value in values if value > 0]


def _panel(panel: Panel, rows: Mapping[str, Sequence[float]], height: int) -> str:
    everything = [value for values in rows.values() for value in _positive(values)]
    ticks = decades(min(everything), max(everything))
    left, right = NAMES, WIDTH - VALUES
    bottom = height - FOOT

    def at(value: float) -> float:
        share = math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return round(left + share * (right - left), 1)

    parts = [
        _text(0, 14, panel.title, size=13, weight="600"),
        _text(WIDTH, 14, panel.better, size=11, fill=PALE, anchor="end"),
    ]
    shown = _labelled(ticks)
    for tick in ticks:
        parts.append(f"<line x1='{at(tick)}' x2='{at(tick)}' y1='{HEAD - 16}' y2='{bottom}' stroke='{GRID}'/>")
        if tick in shown:
            parts.append(_text(at(tick), bottom + 14, f"{tick:g}", size=10, fill=PALE, anchor="middle"))
    for number, (name, measured) in enumerate(rows.items()):
        values = _positive(measured)
        y = HEAD + number * ROW
        ours = name.startswith("meshd")
        parts.append(_text(0, y + 4, name, size=12, weight="600" if ours else "400"))
        if not values:
            parts.append(_text(left + 4, y + 4, "0" if measured else "–", size=12, fill=PALE))
            continue
        colour, middle = OURS if ours else THEIRS, statistics.median(values)
        parts.append(
            f"<line x1='{at(min(values))}' x2='{at(max(values))}' y1='{y}' y2='{y}' stroke='{colour}' stroke-width='3' "
            f"stroke-linecap='round' opacity='0.45'/><circle cx='{at(middle)}' cy='{y}' r='5' fill='{colour}'/>"
        )
        parts.append(_text(WIDTH, y + 4, _short(middle), size=12, anchor="end", weight="600" if ours else "400"))
    return "".join(parts)


def _labelled(ticks: Sequence[float]) -> list[float]:
    """All of few, powers of ten of many."""
    if len(ticks) <= 7:
        return list(ticks)
    return [tick for tick in ticks if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def _text(
    x: float, y: float, text: str, *, size: int, fill: str = TEXT, anchor: str = "start", weight: str = "400"
) -> str:
    style = f"font-size='{size}' font-weight='{weight}' fill='{fill}' text-anchor='{anchor}'"
    return f"<text x='{x}' y='{y}' {style}>{escape(text)}</text>"
