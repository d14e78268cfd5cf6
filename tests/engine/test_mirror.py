"""Somebody looks at the inner frames: every one is shown, with its direction and where it goes to or comes from."""

from __future__ import annotations

from meshd.drops import DropReason
from meshd.forward.engine.interface import Buffer, Verdict
from meshd.forward.slots import FLOOD, drop_slot
from meshd.ids import SlotId
from tests.engine.pair import PEER, Pair, Side
from tests.engine.reference import arp, capture, complete, cut, super_frame, tcp

PAYLOAD = bytes(range(256)) * 64


class Seen(list[tuple[str, SlotId, bytes]]):
    """A mirror that keeps what it was shown."""

    def __call__(self, inward: bool, slot: SlotId, frame: Buffer) -> None:
        self.append(("in" if inward else "out", slot, bytes(frame)))


def look_at(side: Side) -> Seen:
    seen = Seen()
    side.engine.set_mirror(seen)
    return seen


def test_a_frame_is_seen_at_both_ends() -> None:
    pair = Pair()
    out, came = look_at(pair.a), look_at(pair.b)
    assert pair.carry(capture(arp())) == [capture(arp())]
    assert out == [("out", PEER, bytes(arp()))]
    assert came == [("in", PEER, bytes(arp()))]


def test_a_super_frame_goes_out_whole_and_each_of_its_segments_is_seen_coming() -> None:
    pair = Pair()
    out, came = look_at(pair.a), look_at(pair.b)
    packet = tcp(PAYLOAD)
    written = pair.carry(super_frame(packet, 1000))
    expected = cut(packet, 1000)
    assert [frame for one in written for frame in complete(one)] == expected
    assert len(out) == 1
    assert len(out[0][2]) == len(bytes(packet))
    assert [(direction, slot, len(frame)) for direction, slot, frame in came] == [
        ("in", PEER, len(frame)) for frame in expected
    ]


def test_when_nobody_looks_any_more_segments_are_put_together_again() -> None:
    pair = Pair()
    look_at(pair.b)
    packet = super_frame(tcp(PAYLOAD), 1000)
    assert len(pair.carry(packet)) == len(cut(tcp(PAYLOAD), 1000))
    pair.b.engine.set_mirror(None)
    assert len(pair.carry(packet)) == 1


def test_drops_are_seen_with_their_reason() -> None:
    pair = Pair()
    out = look_at(pair.a)
    pair.a.upcalls.outbound = Verdict(drop_slot(DropReason.MAC_FROZEN))
    pair.carry(capture(arp()))
    assert out == [("out", drop_slot(DropReason.MAC_FROZEN), bytes(arp()))]


def test_floods_are_seen_at_both_ends() -> None:
    pair = Pair()
    out, came = look_at(pair.a), look_at(pair.b)
    pair.a.upcalls.outbound = Verdict(FLOOD)
    pair.a.upcalls.children[pair.a.origin] = [PEER]
    pair.b.upcalls.children[pair.a.origin] = []
    assert pair.carry(capture(arp())) == [capture(arp())]
    assert out == [("out", FLOOD, bytes(arp()))]
    assert came == [("in", PEER, bytes(arp()))]
