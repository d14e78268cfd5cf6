"""Fragments: what is cut comes together again in any order, and never from pieces that do not belong together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.drops import DropCounters, DropReason
from meshd.errors import DecodeError
from meshd.forward.entries import MAX_ENTRY_SIZE, EntryKind, decode_entries, encode_entry
from meshd.forward.fragment import (
    FRAGMENT_TIMEOUT,
    MAX_ALL_FRAGMENT_BYTES,
    MAX_FRAGMENT_BYTES,
    MAX_FRAGMENTED,
    MIN_FRAGMENT,
    Reassembled,
    Reassembly,
    decode_fragment,
    fragments,
)

KEY = 77
FRAME = EntryKind.FRAME


def entry_of(size: int, kind: int = FRAME, seed: int = 0) -> bytes:
    return encode_entry(kind, random.Random(f"{size} {seed}").randbytes(size))


def bodies(entry: bytes, identification: int = 1, room: int = 500) -> list[memoryview]:
    """Of the fragments' own entries."""
    cut = []
    for piece in fragments(entry, identification, room):
        assert len(piece) <= room
        ((kind, body),) = decode_entries(piece)
        assert kind == EntryKind.FRAGMENT
        cut.append(body)
    return cut


def piece(offset: int, data: bytes, *, last: bool = False, identification: int = 1) -> memoryview:
    word = offset | (0x8000 if last else 0)
    return memoryview(identification.to_bytes(2, "little") + word.to_bytes(2, "little") + data)


class Receiver:
    def __init__(self) -> None:
        self.drops = DropCounters()
        self.reassembly: Reassembly[str] = Reassembly(self.drops)

    def take(
        self, body: memoryview, *, peer: str = "p", key: int = KEY, vouched: bool = False, now: float = 1.0
    ) -> Reassembled | None:
        return self.reassembly.take(peer, key, body, vouched, now)

    def counts(self) -> tuple[int, int]:
        return self.drops[DropReason.BAD_FRAGMENT], self.drops[DropReason.FRAGMENT_LOST]


# ── cutting


@given(st.integers(1, MAX_ENTRY_SIZE), st.integers(300, 9000))
def test_pieces_are_equal_but_the_last_and_fit(size: int, room: int) -> None:
    entry = entry_of(size)
    cut = bodies(entry, 0xFFFF, room)
    sizes = [len(body) - 4 for body in cut]
    assert len(set(sizes[:-1])) <= 1
    assert sizes[-1] <= sizes[0]
    assert sum(sizes) == len(entry)
    assert all(decode_fragment(body).identification == 0xFFFF for body in cut)
    assert [decode_fragment(body).last for body in cut] == [False] * (len(cut) - 1) + [True]


def test_no_pieces_where_a_receiver_would_not_take_them() -> None:
    assert list(fragments(entry_of(1000), 1, 2 * MIN_FRAGMENT + 5)) == []
    assert len(list(fragments(entry_of(300), 1, 2 * MIN_FRAGMENT + 6))) == 2


# ── joining


@given(
    st.lists(
        st.tuples(st.integers(1, 4000), st.sampled_from([EntryKind.FRAME, EntryKind.FLOOD])), min_size=1, max_size=8
    ),
    st.integers(300, 1500),
    st.data(),
)
@settings(deadline=None)
def test_against_an_oracle_in_any_order_with_loss_and_copies(
    wanted: list[tuple[int, EntryKind]], room: int, data: st.DataObject
) -> None:
    """An entry comes out exactly once, when the first copy of its last missing piece comes in; what lost a piece never does."""
    entries = {number: entry_of(size, kind, number) for number, (size, kind) in enumerate(wanted)}
    pieces = [(number, body) for number, entry in entries.items() for body in bodies(entry, number, room)]
    lost = data.draw(st.sets(st.integers(0, len(pieces) - 1), max_size=3))
    stream = [item for at, item in enumerate(pieces) if at not in lost]
    stream = data.draw(st.permutations(stream))
    missing = {number: {bytes(body) for other, body in pieces if other == number} for number in entries}
    receiver = Receiver()
    for number, body in stream:
        missing[number].discard(bytes(body))
        whole = receiver.take(body)
        if missing[number]:
            assert whole is None
            assert receiver.take(body) is None  # a copy changes nothing
        else:
            assert whole is not None
            assert encode_entry(whole.kind, whole.body) == entries[number]
    assert receiver.counts()[1] == 0
    left = sum(len(body) - 4 for number, body in stream if missing[number])
    assert receiver.reassembly.size == left
    receiver.reassembly.expire(1.0 + FRAGMENT_TIMEOUT)
    assert receiver.reassembly.size == 0
    assert receiver.counts()[1] == len({number for number, _ in stream if missing[number]})


def test_peers_keys_and_ids_are_kept_apart() -> None:
    receiver = Receiver()
    first, second = bodies(entry_of(700), room=500)
    assert receiver.take(first) is None
    assert receiver.take(second, peer="q") is None
    assert receiver.take(second, key=KEY + 1) is None
    assert receiver.take(bodies(entry_of(700), 2, 500)[1]) is None
    assert receiver.take(second) is not None
    assert receiver.counts() == (0, 0)


def test_too_late() -> None:
    receiver = Receiver()
    first, second = bodies(entry_of(700))
    receiver.take(first, now=1.0)
    assert receiver.take(second, now=1.0 + FRAGMENT_TIMEOUT) is None
    assert receiver.counts() == (0, 1)
    assert receiver.take(first, now=1.1 + FRAGMENT_TIMEOUT) is not None  # in pieces that came within a second, again


@pytest.mark.parametrize(
    "intruder",
    [
        piece(100, bytes(200)),
        piece(300, bytes(200)),
        piece(0, bytes(400)),
        piece(0, b"x" * 200),
        piece(150, bytes(128)),
        piece(100, bytes(50), last=True),
        piece(0, bytes(200), last=True),
    ],
)
def test_an_overlap_makes_the_whole_entry_worthless(intruder: memoryview) -> None:
    receiver = Receiver()
    receiver.take(piece(0, bytes(200)))
    receiver.take(piece(200, bytes(200)))
    assert receiver.take(intruder) is None
    assert receiver.reassembly.size == 0
    assert receiver.counts() == (1, 0)


def test_two_ends_and_pieces_behind_the_end() -> None:
    for intruder in (piece(400, bytes(10), last=True), piece(600, bytes(128)), piece(800, bytes(1), last=True)):
        receiver = Receiver()
        receiver.take(piece(200, bytes(200)))
        receiver.take(piece(400, bytes(100), last=True))
        assert receiver.take(intruder) is None
        assert receiver.counts() == (1, 0)
        assert receiver.reassembly.size == 0


def test_vouched_and_not_vouched_do_not_mix() -> None:
    receiver = Receiver()
    first, second = bodies(entry_of(700))
    receiver.take(first, vouched=True)
    assert receiver.take(second, vouched=False) is None
    assert receiver.counts() == (1, 0)
    assert receiver.take(first, vouched=True) is None
    whole = receiver.take(second, vouched=True)
    assert whole is not None
    assert whole.vouched


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        bytes(300),  # entries of no bytes, many of them
        encode_entry(EntryKind.CONTROL, bytes(300)),
        encode_entry(EntryKind.FRAGMENT, bytes(300)),
        encode_entry(EntryKind.FRAME, bytes(300))[:-1],
        encode_entry(EntryKind.FRAME, bytes(300)) + b"\0",
        encode_entry(EntryKind.FRAME, bytes(300)) * 2,
        b"\x01",
    ],
)
def test_what_comes_out_is_one_frame_or_flood_or_nothing(plain: bytes) -> None:
    receiver = Receiver()
    assert receiver.take(piece(0, plain, last=True)) is None
    assert receiver.counts() == (1, 0)
    assert receiver.reassembly.size == 0


@pytest.mark.parametrize(
    "body",
    [
        memoryview(b""),
        memoryview(bytes(3)),
        memoryview(bytes(4)),
        piece(0, bytes(MIN_FRAGMENT - 1)),
        piece(16_385, b"x", last=True),
        piece(0x7FFF, b"x", last=True),
        piece(16_300, bytes(128)),
    ],
)
def test_pieces_that_no_sender_makes(body: memoryview) -> None:
    with pytest.raises(DecodeError):
        decode_fragment(body)
    receiver = Receiver()
    assert receiver.take(body) is None
    assert receiver.counts() == (1, 0)


def test_the_largest_entry() -> None:
    receiver = Receiver()
    entry = entry_of(MAX_ENTRY_SIZE)
    *before, last = bodies(entry, room=300)
    assert all(receiver.take(body) is None for body in reversed(before))
    whole = receiver.take(last)
    assert whole is not None
    assert encode_entry(whole.kind, whole.body) == entry


# ── limits


def test_a_peer_that_sends_too_much_loses_its_own_oldest() -> None:
    receiver = Receiver()
    other = bodies(entry_of(700))
    receiver.take(other[0], peer="other")
    for number in range(MAX_FRAGMENTED + 3):
        receiver.take(bodies(entry_of(700), number)[0])
    assert receiver.counts() == (0, 3)
    for number, comes in ((3, True), (MAX_FRAGMENTED + 2, True), (2, False)):
        assert (receiver.take(bodies(entry_of(700), number)[1]) is not None) is comes
    assert receiver.take(other[1], peer="other") is not None


def test_bytes_of_a_peer_and_of_all_are_bounded() -> None:
    receiver = Receiver()
    most = 0
    for number in range(60):
        peer = f"p{number}"
        for identification in range(40):
            receiver.take(piece(0, bytes(16_000), identification=identification), peer=peer)
            most = max(most, receiver.reassembly.size)
    assert MAX_ALL_FRAGMENT_BYTES - 16_000 <= most <= MAX_ALL_FRAGMENT_BYTES
    assert receiver.reassembly._senders["p0"].size <= MAX_FRAGMENT_BYTES
    assert receiver.reassembly.take("p0", KEY, piece(16_000, b"x" * 128, identification=39), False, 1.0) is None


@given(st.lists(st.binary(max_size=300), max_size=60), st.booleans())
@settings(deadline=None)
def test_any_bytes_are_survived_and_counted(garbage: list[bytes], vouched: bool) -> None:
    receiver = Receiver()
    for number, data in enumerate(garbage):
        receiver.take(memoryview(data), vouched=vouched, now=1.0 + number / 100)
        held = sum(
            partial.size for sender in receiver.reassembly._senders.values() for partial in sender.partials.values()
        )
        assert receiver.reassembly.size == held
    receiver.reassembly.expire(1000.0)
    assert receiver.reassembly.size == 0
    assert receiver.reassembly._senders == {}
