"""Colour, where someone sees it: plain ANSI on a terminal, nothing elsewhere (https://no-color.org, TERM=dumb)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import TextIO

from meshd.control.render import Paint, plain

__all__ = ["is_terminal", "painter", "say", "terminable", "warn"]

_CODES = {"good": "32", "warn": "33", "bad": "31", "dim": "2", "head": "1"}


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def painter(stream: TextIO, environment: Mapping[str, str] = os.environ) -> Paint:
    colour = is_terminal(stream) and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    return _ansi if colour else plain


def _ansi(role: str, text: str) -> str:
    return f"\x1b[{_CODES[role]}m{text}\x1b[0m"


def say(text: str) -> None:
    """To stdout, as it is."""
    print(text, end="")


def warn(line: str) -> None:
    """One line to stderr, for the person at the terminal: what scripts read on stdout stays clean."""
    print(f"meshd: {line}", file=sys.stderr)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
