"""Feeds one target; says what it did with an input that it must not choke on. `python -m tests.fuzz` runs all of them.

Every input comes from a generator seeded by target, seed and number, so a find is repeated by its three alone. What is allowed is
to take the input or to refuse it by DecodeError or UserError, in less than SLOW_S.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

from meshd.errors import DecodeError, UserError
from tests.fuzz.mutate import bytes_like
from tests.fuzz.targets import TARGETS

__all__ = ["Find", "inputs", "run"]

SLOW_S = 1.0  # of CPU: far above what any takes


class Find(AssertionError):
    """An input that broke its target."""

    def __init__(self, target: str, seed: int, number: int, data: bytes, what: str) -> None:
        super().__init__(f"{target!r}, seed {seed}, input {number}: {what}\n  {data.hex()}")


def inputs(target: str, seed: int, count: int) -> Iterator[tuple[int, bytes]]:
    rng, corpus = Random(f"{target} {seed}"), TARGETS[target].corpus
    yield from ((number, bytes_like(rng, corpus)) for number in range(count))


def run(target: str, count: int, seed: int = 0) -> int:
    """Returns how many inputs were refused. Raises Find."""
    feed, refused = TARGETS[target].make(), 0
    for number, data in inputs(target, seed, max(1, count // TARGETS[target].cost)):
        started = time.thread_time()
        try:
            feed(data)
        except (DecodeError, UserError):
            refused += 1
        except Exception as error:
            raise Find(target, seed, number, data, f"{type(error).__name__}: {error}") from error
        if time.thread_time() - started > SLOW_S:
            raise Find(target, seed, number, data, f"took more than {SLOW_S} s")
    return refused
