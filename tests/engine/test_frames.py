"""Frames in at one host = frames out at the other, whatever is cut, aggregated and put together on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import Suite
from tests.engine.pair import PEER, Pair
from tests.engine.reference import arp, capture, complete, cut, super_frame, tcp, udp, unfinished

PAYLOAD = bytes(range(256)) * 256


def carried(pair: Pair, *captures: bytes) -> list[bytes]:
    return [frame for written in pair.carry(*captures) for frame in complete(written)]


@pytest.mark.parametrize("suite", list(Suite))
def test_a_frame_arrives_as_it_was(suite: Suite) -> None:
    pair = Pair(suite=suite)
    assert pair.carry(capture(arp())) == [capture(arp())]
    assert pair.b.upcalls.confirmed == [pair.a.index_of(PEER)]
    assert pair.a.drops == pair.b.drops == {}


packets = st.builds(
    lambda make, size, version, ident: make(PAYLOAD[:size], version=version, ident=ident),
    st.sampled_from([tcp, udp]),
    st.integers(0, 1300),
    st.sampled_from([4, 6]),
    st.integers(0, 0xFFFF),
)


@st.composite
def captures(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """What the TAP hands over, and the frames that the other bridge must see."""
    form = draw(st.sampled_from(["finished", "partial", "super", "arp"]))
    if form == "arp":
        return capture(arp()), [bytes(arp())]
    if form == "super":
        version, size = draw(st.sampled_from([4, 6])), draw(st.integers(100, 1300))
        count, rest = draw(st.integers(1, 20)), draw(st.integers(1, 100))
        ident, seq = draw(st.integers(0, 0xFFFF)), draw(st.integers(0, 0xFFFFFFFF))
        flags = draw(st.sampled_from(["A", "PA", "FA", "FPA", "CA", "CEPA", "EA"]))
        options = draw(st.sampled_from([[], [("NOP", None), ("NOP", None), ("Timestamp", (9, 8))]]))
        vlan = draw(st.sampled_from([None, 5]))
        if draw(st.booleans()):
            packet = tcp(PAYLOAD[: size * count + rest], version, vlan, ident, seq=seq, flags=flags, options=options)
        else:
            packet = udp(PAYLOAD[: size * count + rest], version, ident)
        return super_frame(packet, size, ecn="C" in flags), cut(packet, size)
    packet = draw(packets)
    return (unfinished if form == "partial" else capture)(packet), [bytes(packet)]


@given(st.lists(captures(), min_size=1, max_size=12), st.booleans())
def test_frames_in_are_frames_out(batch: list[tuple[bytes, list[bytes]]], group: bool) -> None:
    pair = Pair()
    pair.b.port.group = group
    expected = [frame for _, frames in batch for frame in frames]
    assert carried(pair, *[data for data, _ in batch]) == expected
    assert pair.a.drops == pair.b.drops == {}
    assert pair.a.engine.peer_counters()[PEER].frames_out == len(expected)
    assert pair.b.engine.peer_counters()[PEER].frames_in == len(expected)
