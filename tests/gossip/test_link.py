"""Control links: both handshakes, every kind of bad bytes, silence towards strangers, keepalive and rekey under traffic."""

from __future__ import annotations

from random import Random

import pytest

from meshd.crypto.identity import host_id_of
from meshd.crypto.wire import Liveness
from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.gossip.codec import pack
from meshd.gossip.framing import frame
from meshd.gossip.link import ControlLink
from meshd.gossip.linktypes import (
    HANDSHAKE_TIME,
    KEEPALIVE,
    MAX_BAD_MESSAGES,
    NO_ANSWER,
    OURSELF,
    SILENCE,
    LinkClosed,
    LinkFailed,
    LinkState,
)
from meshd.gossip.messages import RekeyDone, RekeyInit, Root, Want, WantRow
from meshd.ids import ShortId

from .links import OTHER_MESH, Host, Pair


def pair(*, ik: bool, chunk: int = 0, rekey_time: float = 120.0) -> Pair:
    one, two = Host("one", rekey_time=rekey_time), Host("two", rekey_time=rekey_time)
    one.knows(two)
    two.knows(one)
    return Pair(one.dial(to=two if ik else None), two.accept(), chunk=chunk)


def state(end: ControlLink) -> LinkState:
    return end.state


def root(n: int) -> Root:
    return Root(n.to_bytes(8, "little"))


@pytest.mark.parametrize("chunk", [0, 1, 7])
@pytest.mark.parametrize("ik", [True, False])
def test_both_ends_know_each_other_and_talk(ik: bool, chunk: int) -> None:
    link = pair(ik=ik, chunk=chunk)
    link.settle()
    for name, other in (("dialler", Host("two")), ("acceptor", Host("one"))):
        ready = link.ready(name)
        assert ready.host == host_id_of(other.identity.ed25519_public)
        assert (ready.ed25519, ready.static) == (other.identity.ed25519_public, other.static)
    link.dialler.send_message(root(1))
    link.dialler.send_message(Want((WantRow(ShortId(b"12345678"), 1, 2),)))
    link.acceptor.send_message(root(2))
    link.settle()
    assert link.received("acceptor") == [root(1), Want((WantRow(ShortId(b"12345678"), 1, 2),))]
    assert link.received("dialler") == [root(2)]


def test_an_acceptor_of_ik_says_nothing_before_the_dialler_has_shown_its_keys() -> None:
    link = pair(ik=True)
    link.acceptor.receive(link.dialler.data_to_send(), 0.0)
    assert state(link.acceptor) is LinkState.CONFIRMING
    assert link.acceptor.next_event() is None
    with pytest.raises(LocalProtocolError):
        link.acceptor.send_message(root(1))
    link.settle()
    assert state(link.acceptor) is LinkState.READY


def test_nothing_readable_crosses_the_wire() -> None:
    link = pair(ik=False)
    link.settle()
    link.dialler.send_message(Root(b"MARKERED"))
    link.settle()
    assert link.received("acceptor") == [Root(b"MARKERED")]
    assert not any(b"MARKERED" in data for _, data in link.wire)


@pytest.mark.parametrize("chunk", [0, 1])
def test_another_mesh_key(chunk: int) -> None:
    link = Pair(Host("one", mesh=OTHER_MESH).dial(), Host("two").accept(), chunk=chunk)
    link.settle()
    failed = link.failed("acceptor")
    assert failed.reason is DropReason.BAD_MAC1
    assert failed.text == "192.0.2.1:40000 tried with another mesh key"
    assert failed.other_mesh_key
    assert [name for name, _ in link.wire] == ["dialler"]  # nothing was answered
    link.dialler.receive(b"", 0.1)
    event = link.dialler.next_event()
    assert isinstance(event, LinkFailed)
    assert event.text == NO_ANSWER


@pytest.mark.parametrize("ik", [True, False])
def test_ourself(ik: bool) -> None:
    host = Host("one")
    host.knows(host)
    link = Pair(host.dial(to=host if ik else None), host.accept())
    link.settle()
    assert link.failed("dialler").ourself
    assert link.failed("dialler").text == OURSELF


def test_ik_from_a_host_without_record_is_not_answered() -> None:
    one, two = Host("one"), Host("two")
    link = Pair(one.dial(to=two), two.accept())
    link.settle()
    assert link.failed("acceptor").reason is DropReason.UNKNOWN_PEER
    assert len(link.wire) == 1


@pytest.mark.parametrize("ik", [True, False])
def test_every_flipped_bit_of_the_first_frame_closes_without_an_answer(ik: bool) -> None:
    one, two = Host("one"), Host("two")
    two.knows(one)
    first = one.dial(to=two if ik else None).data_to_send()
    for position in range(len(first) * 8):
        flipped = bytearray(first)
        flipped[position // 8] ^= 1 << position % 8
        link = two.accept()
        link.receive(bytes(flipped), 0.0)
        assert link.data_to_send() == b""
        if not link.closed():  # a longer length: it waits for the rest, and not for ever
            link.handle_timer(HANDSHAKE_TIME)
        event = link.next_event()
        assert isinstance(event, LinkFailed)
        assert link.closed()


def test_garbage_is_never_answered_and_never_raises() -> None:
    rng = Random(5)
    host = Host("two")
    for _ in range(300):
        link = host.accept()
        for _ in range(4):
            link.receive(rng.randbytes(rng.randrange(1, 400)), 0.0)
        assert link.data_to_send() == b""
        link.handle_timer(HANDSHAKE_TIME)
        assert link.closed()
    assert sum(count for _, count in host.drops.items()) == 300


@pytest.mark.parametrize("head", [b"\x00\x00", b"\xff\xff", b"\x00\x02", b"GET / HTTP/1.1\r\n"])
def test_a_length_that_no_handshake_has_ends_at_once(head: bytes) -> None:
    link = Host("two").accept()
    link.receive(head, 0.0)
    event = link.next_event()
    assert isinstance(event, LinkFailed)
    assert event.reason is DropReason.LINK_GARBAGE


def test_a_handshake_never_finished_ends_after_five_seconds() -> None:
    link = pair(ik=False)
    data = link.dialler.data_to_send()
    for n, byte in enumerate(data[:-1]):
        link.acceptor.receive(bytes((byte,)), n * 0.01)
    assert link.acceptor.next_deadline() == HANDSHAKE_TIME
    link.acceptor.handle_timer(HANDSHAKE_TIME - 0.1)
    assert not link.acceptor.closed()
    for end, reason, text in (
        (link.acceptor, DropReason.LINK_LIMIT, "192.0.2.1:40000: no handshake within 5 s"),
        (link.dialler, DropReason.BAD_HANDSHAKE, NO_ANSWER),
    ):
        end.handle_timer(HANDSHAKE_TIME)
        event = end.next_event()
        assert isinstance(event, LinkFailed)
        assert (event.reason, event.text) == (reason, text)
        assert end.data_to_send() == b""
        assert end.next_deadline() is None


@pytest.mark.parametrize("ik", [True, False])
def test_a_captured_conversation_replayed(ik: bool) -> None:
    one, two = Host("one"), Host("two")
    one.knows(two)
    two.knows(one)
    link = Pair(one.dial(to=two if ik else None), two.accept())
    link.settle()
    link.dialler.send_message(root(1))
    link.settle()
    captured = b"".join(data for name, data in link.wire if name == "dialler")
    again = two.accept()
    again.receive(captured, 1.0)
    assert again.closed()
    event = again.next_event()
    assert isinstance(event, LinkFailed)
    assert event.reason is (DropReason.STALE_HANDSHAKE if ik else DropReason.UNEXPECTED_HANDSHAKE)
    assert again.data_to_send() == b""


def test_a_reflected_conversation() -> None:
    link = pair(ik=False)
    data = link.dialler.data_to_send()
    link.dialler.receive(data, 0.0)
    event = link.dialler.next_event()
    assert isinstance(event, LinkFailed)


def established(**options: float) -> Pair:
    link = pair(ik=True, **options)  # type: ignore[arg-type]
    link.settle()
    link.wire.clear()
    for events in link.events.values():
        events.clear()
    return link


@pytest.mark.parametrize("change", ["flip", "repeat", "leave out", "swap"])
def test_a_changed_stream_ends_the_link(change: str) -> None:
    link = established()
    frames = []
    for n in range(3):
        link.dialler.send_message(root(n))
        frames.append(link.dialler.data_to_send())
    if change == "flip":
        frames[1] = frames[1][:-1] + bytes((frames[1][-1] ^ 1,))
    elif change == "repeat":
        frames.insert(1, frames[0])
    elif change == "leave out":
        del frames[1]
    else:
        frames[1], frames[2] = frames[2], frames[1]
    link.acceptor.receive(b"".join(frames), 0.0)
    link.settle()
    assert link.failed("acceptor").reason is DropReason.BAD_TAG
    assert link.received("acceptor") == [root(0)]


def seal(end: ControlLink, plain: bytes) -> None:
    """Send what a bad peer of the mesh might."""
    assert end._send is not None
    end._out += frame(end._send.seal(plain))


def test_one_bad_message_costs_only_itself_many_cost_the_link() -> None:
    link = established()
    seal(link.dialler, b"\xc1 not msgpack")
    link.dialler.send_message(root(1))
    link.settle()
    assert link.received("acceptor") == [root(1)]
    for _ in range(MAX_BAD_MESSAGES):
        seal(link.dialler, pack((3, "not a hash")))
    link.settle()
    assert link.failed("acceptor").reason is DropReason.LINK_GARBAGE


def test_a_message_of_a_later_version_is_passed_over_and_counted() -> None:
    link = established()
    seal(link.dialler, pack((200, "new")))
    link.dialler.send_message(root(1))
    link.settle()
    assert link.received("acceptor") == [root(1)]
    assert link.acceptor._config.drops[DropReason.UNKNOWN_TYPE] == 1


def test_leave_is_no_fault() -> None:
    link = established()
    link.dialler.close()
    link.dialler.close()
    link.settle()
    assert link.events["acceptor"] == [LinkClosed("the other host left", left=True)]
    link.dialler.send_message(root(1))  # no error: the owner may not have heard yet
    assert link.dialler.data_to_send() == b""


def test_the_end_of_the_stream() -> None:
    link = established()
    link.acceptor.receive(b"", 1.0)
    assert link.acceptor.next_event() == LinkClosed("closed by the other host")


def test_keepalive_and_silence() -> None:
    link = established()
    for second in range(1, 100):
        now = float(second)
        for end in (link.dialler, link.acceptor):
            deadline = end.next_deadline()
            assert deadline is not None
            if deadline <= now:
                end.handle_timer(now)
        link.settle(now)
    assert not link.dialler.closed()
    assert len(link.wire) <= 4 * (100 / KEEPALIVE)
    heard = 99.0
    link.dialler.handle_timer(heard + SILENCE)
    assert link.dialler.next_event() == LinkClosed("nothing heard for 30 s")


def test_rekey_under_traffic_both_ways_loses_nothing() -> None:
    """Data in flight in both directions while each direction switches; every delivery order that TCP allows, by seed."""
    rekeys = 0
    for seed in range(20):
        rng = Random(seed)
        link = established(rekey_time=2.0)
        sent: dict[str, list[Root]] = {"dialler": [], "acceptor": []}
        pipes = {"dialler": bytearray(), "acceptor": bytearray()}
        ends = {"dialler": link.dialler, "acceptor": link.acceptor}
        for step in range(400):
            now = step * 0.05
            for name, end in ends.items():
                end.handle_timer(now)
                if rng.random() < 0.7:
                    sent[name].append(root(step))
                    end.send_message(root(step))
                pipes[name] += end.data_to_send()
                other = ends["acceptor" if name == "dialler" else "dialler"]
                size = rng.randrange(200)
                if pipes[name] and size:
                    other.receive(bytes(pipes[name][:size]), now)
                    del pipes[name][:size]
        for _ in range(8):
            for name, other in (("dialler", link.acceptor), ("acceptor", link.dialler)):
                pipes[name] += ends[name].data_to_send()
                if pipes[name]:
                    other.receive(bytes(pipes[name]), 20.0)
                pipes[name].clear()
        link.settle(20.0)
        assert link.received("acceptor") == sent["dialler"]
        assert link.received("dialler") == sent["acceptor"]
        rekeys += attempts(link)
    assert rekeys >= 20 * 5


def attempts(link: Pair) -> int:
    """How many type 1 messages the dialler has made in place."""
    return link.dialler._config.liveness().attempt - 2


def test_a_rekey_that_never_finishes_ends_the_link() -> None:
    link = established()
    link.dialler.handle_timer(29.0)
    link.settle(29.0)
    for now in range(30, 181, 5):
        for end in (link.dialler, link.acceptor):
            end._heard = float(now)  # keepalive works, only the rekey is held back
            end.handle_timer(float(now))
            end.data_to_send()
    for end in (link.dialler, link.acceptor):
        event = end.next_event()
        assert isinstance(event, LinkFailed)
        assert event.reason is DropReason.KEY_EXPIRED


def test_rekey_messages_out_of_place_are_bad_messages() -> None:
    link = established()
    link.dialler.send_message(RekeyDone())
    link.acceptor.send_message(RekeyInit(b"x" * 148))
    link.dialler.send_message(RekeyInit(b"x" * 148))
    link.dialler.send_message(root(1))
    link.settle()
    assert link.received("acceptor") == [root(1)]
    assert link.acceptor._config.drops[DropReason.BAD_RECORD] == 2
    assert link.dialler._config.drops[DropReason.BAD_RECORD] == 1


def test_a_rekey_that_was_refused_is_tried_again() -> None:
    one, two = Host("one"), Host("two")
    one.knows(two)
    two.knows(one)
    link = Pair(one.dial(to=two), two.accept())
    link.settle()
    two.newest[one.static] = Liveness(1, 3)  # a type 1 on another link has overtaken
    now = 0.0
    while attempts(link) < 2:
        now += 1.0
        for end in (link.dialler, link.acceptor):
            end.handle_timer(now)
        link.settle(now)
        assert now < 150
    link.dialler.send_message(root(1))
    link.settle(now)
    assert link.received("acceptor") == [root(1)]
