"""One story told to both engines: after every step, all that somebody could tell them apart by is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

__all__ = ["compare"]


class Seen(Protocol):
    def seen(self) -> dict[str, object]:
        """By name, everything that the engine's play has led to."""
        ...


PlayT = TypeVar("PlayT", bound=Seen)


def compare(story: Iterable[Callable[[PlayT], None]], reference: PlayT, native: PlayT) -> None:
    for step in story:
        step(reference)
        step(native)
        expected, got = reference.seen(), native.seen()
        for name, value in expected.items():
            assert got[name] == value, name
