"""Malformed inputs from good ones: what a careless, an unlucky and a hostile sender would make of them. Seeded, so a find repeats.

`bytes_like` changes bytes: bits, lengths, chunks, numbers that sit on a border. `tree_like` changes the inside of what msgpack or
JSON hold, so that the result still decodes and reaches the checks behind. Nine in ten inputs are changed corpus, the tenth is
noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

__all__ = ["MAX_SIZE", "bytes_like", "tree_like"]

MAX_SIZE = 2048
BORDERS = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def bytes_like(rng: Random, corpus: Sequence[bytes]) -> bytes:
    if rng.random() < 0.1 or not corpus:
        return rng.randbytes(rng.choice((0, 1, 2, 4, 13, 14, 15, 32, 60, 148, 237, 300)))
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_CHANGES)(rng, data, corpus)
    return bytes(data[:MAX_SIZE])


def _flip(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice(
            (0, 1, 0x7F, 0x80, 0xC0, 0xDC, 0xDD, 0xDF, 0xFF, rng.randrange(256))
        )


def _number(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    size = rng.choice((1, 2, 4, 8))
    if len(data) >= size:
        at = rng.randrange(len(data) - size + 1)
        value = (rng.choice(BORDERS) + rng.randrange(-1, 2)) % (1 << 8 * size)
        data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _cut(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _drop(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randrange(1, 17)]


def _insert(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice((bytes(rng.randrange(1, 9)), rng.randbytes(rng.randrange(1, 9)), b"\xff" * 4))


def _repeat(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = bytes(data[at : at + rng.randrange(1, 33)]) * rng.randrange(1, 5)


def _splice(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = rng.choice(corpus)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


_CHANGES: tuple[Callable[[Random, bytearray, Sequence[bytes]], None], ...] = (
    *(_flip, _flip, _set, _number, _number),
    *(_cut, _drop, _insert, _repeat, _splice),
)


def tree_like(rng: Random, tree: object) -> object:
    """The same with one thing in it changed: another value, one more, one less, or one level more."""
    if isinstance(tree, list | tuple) and tree and rng.random() < 0.8:
        items = list(tree)
        at = rng.randrange(len(items))
        match rng.randrange(5):
            case 0:
                del items[at]
            case 1:
                items.insert(at, items[at])
            case _:
                items[at] = tree_like(rng, items[at])
        return items
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        fields = dict(tree)
        key = rng.choice(list(fields))
        match rng.randrange(5):
            case 0:
                del fields[key]
            case 1:
                fields[_odd(rng, hashable=True)] = fields[key]
            case _:
                fields[key] = tree_like(rng, fields[key])
        return fields
    return _near(rng, tree) if rng.random() < 0.5 else _odd(rng)


def _near(rng: Random, leaf: object) -> object:
    """Another one of its kind."""
    match leaf:
        case bytes():
            return bytes_like(rng, [leaf])
        case str():
            return bytes_like(rng, [leaf.encode()]).decode("utf-8", "replace")
        case int():
            return leaf + rng.choice((-1, 1, 1 << 16, 1 << 32, 1 << 63, -(1 << 32)))
    return [leaf]


def _odd(rng: Random, *, hashable: bool = False) -> object:
    odd: list[object] = [None, True, False, 0, -1, 1 << 63, (1 << 64) - 1, 1.5, float("nan"), "", "\0", "ä" * 300]
    if not hashable:
        odd += [b"", bytes(16), bytes(1000), [], {}, [[[[]]]], {1: {1: {1: 1}}}, [0] * 300]
    return rng.choice(odd)
