"""Many equal byte blocks that count up, made at once: the headers of a super-frame's segments, the nonces of a batch.

A block read as an integer, plus a step, is the next block, as long as no field in it overflows. So a whole run of blocks, read as
one long integer, is the first block repeated, plus a number that depends only on step, width and count, and is made once:

    first first first first …   +   0·step 1·step 2·step 3·step …      each in its own `width` bytes

One long addition takes as long as a turn or two of a loop in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import Literal

__all__ = ["byte_run", "split"]

Order = Literal["big", "little"]


@lru_cache(maxsize=512)
def _ramp(step: int, width: int, count: int, order: Order) -> int:
    places = range(count) if order == "little" else range(count - 1, -1, -1)  # of the first block, of the second, …
    return sum(number * step << 8 * width * place for number, place in enumerate(places))


@lru_cache(maxsize=512)
def split(count: int, *widths: int) -> Struct:
    """Cuts a buffer into `count` times blocks of these widths: one call of `unpack_from` in place of a loop of slices."""
    return Struct("".join(f"{width}s" for width in widths) * count)


def byte_run(first: Sequence[bytes], step: int, count: int, order: Order) -> tuple[bytes, ...]:
    """`count` blocks: first, first + step, first + 2·step …, each read as an integer in this order.

    `first` may be in several parts; each block then comes in as many, one after the other. Raises OverflowError where the whole
    does not fit, or is negative.
    """
    block = b"".join(first)
    total = int.from_bytes(block * count, order) + _ramp(step, len(block), count, order)
    parts: tuple[bytes, ...] = split(count, *map(len, first)).unpack(total.to_bytes(len(block) * count, order))
    return parts
