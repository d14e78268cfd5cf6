"""Comparing two stores: which records the other lacks, and which it must be asked for. Pure functions over digests.

A host sends ROOT to one random neighbour; if the roots differ the neighbour answers with DIGEST, and whoever reads a digest
settles both directions at once: it sends what the other lacks and asks for what itself lacks. Where both hold the same origin
equally far but not the same set (a relay left records out), it asks for that log from the start: merging takes what is truly
missing and skips the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshd.gossip.messages import MAX_DIGEST_ROWS, DigestMessage
from meshd.gossip.store import Digest, Store
from meshd.ids import SHORT_ID_SIZE, HostId, ShortId

__all__ = ["Comparison", "compare", "digest_messages"]

_LOWEST = ShortId(bytes(SHORT_ID_SIZE))
_HIGHEST = ShortId(b"\xff" * SHORT_ID_SIZE)


@dataclass(slots=True, frozen=True)
class Comparison:
    """`send`: origin → (epoch, from where the other lacks it); `want`: (short id, epoch, start) to ask for."""

    send: dict[HostId, tuple[int, int]]
    want: tuple[tuple[ShortId, int, int], ...]


def digest_messages(store: Store, rows: int = MAX_DIGEST_ROWS) -> list[DigestMessage]:
    """The whole store's digest in messages that together cover all ids without a gap."""
    digests = store.digests()
    messages = []
    low = _LOWEST
    for index in range(0, max(1, len(digests)), rows):
        part = tuple(digests[index : index + rows])
        last = index + rows >= len(digests)
        high = _HIGHEST if last else part[-1].short
        messages.append(DigestMessage(low, high, part))
        low = high if last else _after(high)
    return messages


def _after(short: ShortId) -> ShortId:
    return ShortId((int.from_bytes(short, "big") + 1).to_bytes(SHORT_ID_SIZE, "big"))


def compare(store: Store, low: ShortId, high: ShortId, theirs: Sequence[Digest]) -> Comparison:
    send: dict[HostId, tuple[int, int]] = {}
    want: list[tuple[ShortId, int, int]] = []
    ours = {digest.short: digest for digest in store.digests() if low <= digest.short <= high}
    for their in theirs:
        our = ours.pop(their.short, None)
        if our is None or their.epoch > our.epoch:
            want.append((their.short, their.epoch, 0))
            continue
        origin = store.find(their.short)
        if origin is None:
            continue
        if their.epoch < our.epoch:
            send[origin] = (our.epoch, 0)
        elif their.known < our.known:
            send[origin] = (our.epoch, their.known)
        elif their.known > our.known:
            want.append((their.short, our.epoch, our.known))
        elif their.set_hash != our.set_hash:
            want.append((their.short, our.epoch, 0))
    for short, our in ours.items():
        origin = store.find(short)
        if origin is not None:
            send[origin] = (our.epoch, 0)
    return Comparison(send, tuple(want))
