"""msgpack with a short leash: the one way in which gossip turns bytes of other hosts into Python values.

Only after authentication, and still guarded (a 64 KB nest of array headers costs the stock decoder 36 ms and 32 MB): lengths
are capped before anything is allocated, strings must be UTF-8, a map key may occur once, NaN and extension types do not exist,
nothing may follow. Sequences come out as tuples. The `take_*` functions check one field each; a bool is no integer here.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack

from meshd.errors import DecodeError

__all__ = [
    "MAX_ARRAY",
    "MAX_DEPTH",
    "MAX_U64",
    "pack",
    "take_bytes",
    "take_int",
    "take_map",
    "take_text",
    "take_tuple",
    "unpack",
]

MAX_ARRAY = 256
MAX_MAP = 64
MAX_DEPTH = 8
MAX_U64 = (1 << 64) - 1


def pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _pairs(pairs: list[tuple[object, object]]) -> dict[object, object]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise DecodeError("a map key occurs twice")
    return mapping


_TO_CHECK = frozenset((float, tuple, dict))  # as they come out of the decoder; nothing else needs a look


def _check(value: object, depth: int) -> None:
    """Refuse NaN and deep nests anywhere, so that no later user of a decoded value has to think of them."""
    if isinstance(value, float):
        if math.isnan(value):
            raise DecodeError("NaN")
    elif isinstance(value, (tuple, dict)):
        if depth == 0:
            raise DecodeError("nested too deep")
        for item in value:
            if type(item) in _TO_CHECK:
                _check(item, depth - 1)
        if isinstance(value, dict):
            for item in value.values():
                if type(item) in _TO_CHECK:
                    _check(item, depth - 1)


def unpack(data: bytes, *, max_bytes: int) -> Any:
    """Decode one value that fills `data`. Raises DecodeError."""
    if len(data) > max_bytes:
        raise DecodeError(f"{len(data)} bytes, at most {max_bytes}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=False,
            object_pairs_hook=_pairs,
            max_array_len=MAX_ARRAY,
            max_map_len=MAX_MAP,
            max_str_len=max_bytes,
            max_bin_len=max_bytes,
            max_ext_len=0,
        )
    except DecodeError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        # TypeError: an unhashable map key; ValueError: every limit and format error of msgpack, and bad UTF-8
        raise DecodeError(f"not msgpack: {type(error).__name__}") from None
    _check(value, MAX_DEPTH)
    return value


def take_int(value: object, low: int = 0, high: int = MAX_U64) -> int:
    if type(value) is not int or not low <= value <= high:
        raise DecodeError(f"not an integer in {low}..{high}")
    return value


def take_bytes(value: object, low: int, high: int) -> bytes:
    if type(value) is not bytes or not low <= len(value) <= high:
        raise DecodeError(f"not {low}..{high} bytes")
    return value


def take_text(value: object, max_bytes: int) -> str:
    """Printable text: what is shown in listings must not move the terminal's cursor."""
    if type(value) is not str or len(value.encode()) > max_bytes or not value.isprintable():
        raise DecodeError(f"not a printable text of at most {max_bytes} bytes")
    return value


def take_tuple(value: object, max_items: int, min_items: int = 0) -> tuple[Any, ...]:
    if type(value) is not tuple or not min_items <= len(value) <= max_items:
        raise DecodeError(f"not a list of {min_items}..{max_items}")
    return value


def take_map(value: object) -> dict[int, Any]:
    if type(value) is not dict or any(type(key) is not int for key in value):
        raise DecodeError("not a map with integer keys")
    return value
