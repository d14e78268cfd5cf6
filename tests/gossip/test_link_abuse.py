"""Who sends too much, too slowly, or lies about lengths on TCP: ended early, and little is held for it."""

from __future__ import annotations

import sys

import pytest

from meshd.crypto.aead import TAG_SIZE
from meshd.drops import DropReason
from meshd.gossip.framing import frame
from meshd.gossip.linktypes import HANDSHAKE_TIME, LINK_ANSWER_BURST, LINK_ANSWER_RATE, LinkFailed
from meshd.gossip.messages import Ping
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


def test_who_asks_and_does_not_read_the_answers_gets_few() -> None:
    """They would be kept for it without end."""
    two = Host("two")
    link = Pair(Host("one").dial(), two.accept())
    link.settle()
    for step in range(10_000):
        link.dialler.send_message(Ping())
        link.acceptor.receive(link.dialler.data_to_send(), step / 1000)
    answers = link.acceptor.data_to_send()
    assert len(answers) <= (LINK_ANSWER_BURST + 10 * LINK_ANSWER_RATE) * len(frame(bytes(TAG_SIZE + 2)))
    assert two.drops[DropReason.RATE_LIMITED] > 9000
    assert not link.acceptor.closed()
    link.dialler.receive(answers, 10.0)
    assert not link.dialler.closed()


def test_new_keys_again_and_again_cost_the_acceptor_few_handshakes() -> None:
    one, two = Host("one"), Host("two")
    one.knows(two)
    two.knows(one)
    link = Pair(one.dial(), two.accept())
    link.settle()
    for step in range(1, 500):
        link.dialler._start_rekey(step / 100)
        link.settle(step / 100)
    assert not link.acceptor.closed()
    answered = sum(len(data) > 92 for who, data in link.wire if who == "acceptor")
    assert answered <= LINK_ANSWER_BURST + 5 * LINK_ANSWER_RATE + 1
