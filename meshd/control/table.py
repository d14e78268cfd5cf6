"""Columns of text that stay aligned: wide and combining characters counted as terminals show them, control characters as `?`.

Pure, standard library only: rich would cost every listing 50 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unicodedata import combining, east_asian_width

__all__ = ["age", "amount", "clean", "pad", "table", "width"]

_GAP = "  "


def clean(text: str) -> str:
    """One line without anything that could steer a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def width(text: str) -> int:
    """Terminal cells that the text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def pad(text: str, cells: int) -> str:
    return text + " " * max(0, cells - width(text))


def age(seconds: float | None) -> str:
    """`-`, `0.4s`, `59s`, `12m`, `5h`, `3d`: one unit is enough to tell fresh from old."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86400)}d"


def amount(count: int) -> str:
    """Bytes, as `812B`, `1.4K`, `20M`, `3.0G`, in steps of 1024."""
    if count < 1024:
        return f"{count}B"
    value = float(count)
    for unit in "KMGT":
        value /= 1024
        if value < 1024 or unit == "T":
            break
    return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], paint: Callable[[str, str], str] | None = None) -> str:
    """Left-aligned columns without trailing blanks. `paint(column, cell)` may colour a padded cell; the header's column is ""."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(width(line[column]) for line in [header, *cells]) for column in range(len(header))]
    lines = []
    for number, line in enumerate([list(header), *cells]):
        padded = [*map(pad, line[:-1], widths[:-1]), line[-1]]
        if paint is not None:
            padded = [paint(name if number else "", cell) for name, cell in zip(header, padded, strict=True)]
        lines.append(_GAP.join(padded).rstrip() + "\n")
    return "".join(lines)
