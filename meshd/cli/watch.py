"""Showing something again and again: in place on a terminal, one block after the other elsewhere, until Ctrl-C or a closed pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from meshd.cli.terminal import is_terminal, say, terminable

__all__ = ["fit", "watch"]

# ECMA-48 and xterm: home, clear to the end of the line and of the screen, wrapping and cursor off and on
_HOME, _CLEAR, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"
_BEGIN, _END = "\x1b[?7l\x1b[?25l", "\x1b[?7h\x1b[?25h\n"


def watch(produce: Callable[[], str], seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """What `produce` raises ends it, with the terminal as it was."""
    terminal = is_terminal(sys.stdout)
    with contextlib.suppress(KeyboardInterrupt), terminable(), _screen() if terminal else contextlib.nullcontext():
        while True:
            text = produce()
            say(_HOME + fit(text, _rows()) + _END_OF_SCREEN if terminal else text)
            sys.stdout.flush()
            sleep(seconds)


def _rows() -> int:
    """Of the screen; a terminal that does not know says 0, and then nothing is cut."""
    return os.get_terminal_size(sys.stdout.fileno()).lines or sys.maxsize


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """Lines are cut at the margin, not wrapped: what wraps cannot be overwritten in place."""
    say(_BEGIN + _CLEAR)
    try:
        yield
    finally:
        say(_END)
        sys.stdout.flush()


def fit(text: str, rows: int) -> str:
    """As many lines as the screen has, the last one telling what is missing; none ends with a newline that would scroll."""
    lines = text.strip("\n").split("\n")
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"… {len(lines) - rows + 1} more lines"]
    return "\n".join(line + _END_OF_LINE for line in lines)
