"""JSON of a large object in pieces, so that the loop has its turn between them: a report of a thousand hosts has two megabytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["PIECE_ITEMS", "pieces"]

PIECE_ITEMS = 32  # of a list: a peer or a path is half a kilobyte


def pieces(value: object) -> Iterator[str]:
    """Joined they are what `json.dumps` says. An object is taken apart by its keys, a list every PIECE_ITEMS."""
    if isinstance(value, Mapping):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json.dumps(key)}: "
            yield from pieces(item)
        yield "}"
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) > PIECE_ITEMS:
        items = iter(value)
        lead = "["
        while part := list(itertools.islice(items, PIECE_ITEMS)):
            yield lead + json.dumps(part)[1:-1]
            lead = ", "
        yield "]"
    else:
        yield json.dumps(value)
