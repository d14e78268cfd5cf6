"""Says what is being measured: a bar on a terminal, a line a step elsewhere (a log of CI). All on stderr; results go to stdout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

__all__ = ["Progress", "progress"]


class Progress(Protocol):
    """`total` once the number of steps is known, then `step` at the beginning of each."""

    def total(self, steps: int) -> None: ...

    def step(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...


class _Lines:
    def __init__(self) -> None:
        self._total = self._done = 0

    def total(self, steps: int) -> None:
        self._total = steps

    def step(self, text: str) -> None:
        self._done += 1
        self.say(f"[{self._done}/{self._total}] {text}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)
        self._done = -1

    def total(self, steps: int) -> None:
        self._bar.update(self._task, total=steps)

    def step(self, text: str) -> None:
        self._done += 1
        self._bar.update(self._task, description=text, completed=self._done)

    def say(self, text: str) -> None:
        self._bar.update(self._task, description=text)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)
