"""Who sends too much, too slowly, or lies about lengths on TCP: ended early, and little is held for it."""

from __future__ import annotations

import sys

import pytest

from meshd.drops import DropReason
from meshd.gossip.linktypes import HANDSHAKE_TIME, LinkFailed
from tests.gossip.links import Host, Pair

PIECE = bytes(65_536)


@pytest.mark.parametrize("length", [1, 237], ids=["too short", "the longest"])
def test_ten_megabytes_before_the_handshake_end_with_the_first_piece(length: int) -> None:
    """Whatever length it begins with; what comes after the end is not kept."""
    link = Host("two").accept()
    link.receive(length.to_bytes(2, "little") + PIECE, 0.0)
    assert link.closed()
    held = sys.getsizeof(link._in._buffer)
    for _ in range(160):
        link.receive(PIECE, 0.0)
    assert sys.getsizeof(link._in._buffer) == held
    assert link.data_to_send() == b""


def test_ten_megabytes_on_a_link_that_is_ready_end_it_with_the_first_frame() -> None:
    link = Pair(Host("one").dial(), Host("two").accept())
    link.settle()
    assert link.ready("acceptor")
    link.acceptor.receive(b"\xff\xff" + PIECE, 1.0)
    for _ in range(160):
        link.acceptor.receive(PIECE, 1.0)
    assert link.acceptor.closed()
    assert sys.getsizeof(link.acceptor._in._buffer) < 4 * len(PIECE)


def test_a_byte_now_and_then_does_not_move_the_deadline() -> None:
    link = Pair(Host("one").dial(), Host("two").accept())
    data = link.dialler.data_to_send()
    for second, byte in enumerate(data[: int(HANDSHAKE_TIME)]):
        link.acceptor.receive(bytes((byte,)), float(second))
    link.acceptor.receive(data[5:6], HANDSHAKE_TIME - 0.01)
    assert link.acceptor.next_deadline() == HANDSHAKE_TIME
    link.acceptor.handle_timer(HANDSHAKE_TIME)
    event = link.acceptor.next_event()
    assert isinstance(event, LinkFailed)
    assert event.reason is DropReason.LINK_LIMIT
