"""Flows: asked once, bounded, voided by MAC; and the limits on asking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.replay import WINDOW, ReplayWindow
from meshd.drops import DropReason
from meshd.forward.engine.asking import Asking
from meshd.forward.engine.interface import Verdict
from meshd.forward.engine.tables import Flow, FlowTable
from meshd.forward.slots import FIRST_PEER, LOCAL, drop_slot
from meshd.ids import Mac, SlotId, parse_mac
from tests.engine.pair import NOW, PEER, Pair
from tests.engine.reference import A_MAC, B_MAC, capture, super_frame, tcp, udp, unfinished

SOURCE, DESTINATION = parse_mac(A_MAC), parse_mac(B_MAC)
FRAME = capture(udp(b"hello"))


def between(source: int, destination: int) -> bytes:
    return bytes(10) + destination.to_bytes(6, "big") + source.to_bytes(6, "big") + b"\x08\x06" + bytes(28)


def test_a_flow_is_asked_for_once_on_each_side() -> None:
    pair = Pair()
    assert pair.carry(FRAME, FRAME) == [FRAME, FRAME]
    assert pair.carry(FRAME) == [FRAME]
    assert pair.a.upcalls.asked_outbound == [(SOURCE, DESTINATION)]
    assert pair.b.upcalls.asked_inbound == [(PEER, SOURCE, DESTINATION)]


def test_what_a_flow_has_carried_is_seen() -> None:
    pair = Pair()
    pair.carry(FRAME, super_frame(tcp(bytes(5000)), 1332))
    (out,), (into,) = pair.a.engine.flows(), pair.b.engine.flows()
    assert (out.outbound, out.source, out.destination, out.slot) == (True, SOURCE, DESTINATION, PEER)
    assert (out.frames, out.bytes, out.last_used) == (2, len(FRAME) - 10 + 5054, NOW)
    assert (into.outbound, into.source_slot, into.slot, into.frames) == (False, PEER, LOCAL, 5)


def test_sources_are_those_of_flows_used_since_then() -> None:
    pair = Pair()
    for source, now in ((1, 10.0), (2, 20.0), (3, 30.0), (1, 40.0)):
        pair.a.now = pair.b.now = now
        pair.carry(between(source, 9), between(source, 8))
    macs = [Mac(number.to_bytes(6, "big")) for number in range(4)]
    assert sorted(pair.a.engine.sources(20.0)) == [(True, macs[1], 40.0), (True, macs[2], 20.0), (True, macs[3], 30.0)]
    assert sorted(pair.b.engine.sources(30.0)) == [(False, macs[1], 40.0), (False, macs[3], 30.0)]
    assert list(pair.a.engine.sources(41.0)) == list(pair.b.engine.sources(41.0)) == []
    assert (pair.a.engine.flow_count(), pair.b.engine.flow_count()) == (6, 6)


def test_flows_of_a_mac_are_those_with_it_at_either_end() -> None:
    pair = Pair()
    pair.carry(between(1, 2), between(1, 2), between(2, 3), between(4, 5), between(6, 6))
    pair.b.send(between(2, 1))
    pair.b.receive()
    pair.a.receive()
    for number in range(8):
        mac = Mac(number.to_bytes(6, "big"))
        for engine in (pair.a.engine, pair.b.engine):
            expected = [flow for flow in engine.flows() if mac in (flow.source, flow.destination)]
            assert sorted(engine.flows(mac), key=repr) == sorted(expected, key=repr)
    found = pair.a.engine.flows(Mac((2).to_bytes(6, "big")))
    assert sorted((flow.outbound, flow.source[-1], flow.destination[-1], flow.frames) for flow in found) == [
        (False, 2, 1, 1),
        (True, 1, 2, 2),
        (True, 2, 3, 1),
    ]


def test_an_uncached_verdict_is_asked_for_each_frame() -> None:
    pair = Pair()
    pair.a.upcalls.outbound = Verdict(PEER, cached=False)
    pair.carry(FRAME, FRAME, FRAME)
    assert len(pair.a.upcalls.asked_outbound) == 3
    assert pair.a.engine.flows() == []


@pytest.mark.parametrize(
    ("slot", "reason"),
    [
        (LOCAL, "local"),
        (drop_slot(DropReason.UNKNOWN_LIMITED), "unknown_limited"),
        (drop_slot(DropReason.LINK_LOCAL_CONTROL), "link_local_control"),
    ],
)
def test_dropping_verdicts_are_cached_and_counted(slot: SlotId, reason: str) -> None:
    pair = Pair()
    pair.a.upcalls.outbound = Verdict(slot)
    assert pair.carry(FRAME, FRAME) == []
    assert pair.a.drops == {reason: 2}
    assert len(pair.a.upcalls.asked_outbound) == 1


def test_frames_for_nobody_here_are_dropped_after_one_question() -> None:
    pair = Pair()
    pair.b.upcalls.inbound = Verdict(drop_slot(DropReason.NOT_LOCAL))
    packet = unfinished(tcp(bytes(100)))
    assert pair.carry(FRAME, packet, packet) == []
    assert pair.b.drops == {"not_local": 3}
    assert len(pair.b.upcalls.asked_inbound) == 1


def test_flows_are_voided_by_the_mac_at_either_end() -> None:
    pair = Pair()
    pair.a.send(between(1, 2), between(2, 3), between(4, 5))
    pair.b.send(between(2, 1))
    pair.b.receive()
    pair.a.receive()
    assert pair.a.engine.void_flows(Mac((2).to_bytes(6, "big"))) == 3
    assert [flow.source[-1] for flow in pair.a.engine.flows()] == [4]
    assert pair.a.engine.void_flows() == 1
    assert pair.a.engine.flows() == []
    pair.a.send(between(1, 2))
    assert len(pair.a.upcalls.asked_outbound) == 4


def test_a_changed_verdict_holds_after_the_void() -> None:
    pair = Pair()
    pair.carry(FRAME)
    pair.b.upcalls.inbound = Verdict(drop_slot(DropReason.NOT_LOCAL))
    assert pair.carry(FRAME) == [FRAME]
    pair.b.engine.void_flows(DESTINATION)
    assert pair.carry(FRAME) == []


def test_a_full_table_forgets_the_flow_used_longest_ago() -> None:
    table: FlowTable[bytes] = FlowTable(limit=3)
    keys = [bytes(11) + bytes((number,)) for number in range(5)]
    for key in keys[1:4]:
        table.add(key, Flow(LOCAL, None))
    table.use(keys[1])
    table.add(keys[4], Flow(LOCAL, None))
    assert list(table.flows) == [keys[3], keys[1], keys[4]]


def test_one_source_that_invents_destinations_meets_its_limit_alone() -> None:
    pair = Pair()
    pair.a.send(*[between(1, number) for number in range(10, 260)], between(2, 3))
    assert pair.a.drops == {"upcall_overload": 50}
    assert len(pair.a.upcalls.asked_outbound) == 201
    pair.a.now += 0.01
    pair.a.send(between(1, 300))
    assert len(pair.a.upcalls.asked_outbound) == 202


def test_a_peer_and_sources_that_invent_sources_meet_their_limits() -> None:
    pair = Pair()
    pair.carry(*[between(number, 1) for number in range(10, 3010)])
    assert pair.a.drops == {"upcall_overload": 1000}
    assert pair.b.drops == {"upcall_overload": 1800}


def test_refused_flows_are_not_cached() -> None:
    pair = Pair()
    pair.a.send(*[between(1, number) for number in range(10, 260)])
    assert len(pair.a.engine.flows()) == 200
    assert isinstance(getattr(pair.a.engine, "_asking", None), Asking)
    assert FIRST_PEER == PEER


@given(st.lists(st.one_of(st.integers(0, 60), st.integers(0, 20_000)), max_size=12), st.integers(0, 20_000))
def test_a_run_is_the_same_as_its_commits(lengths: list[int], probe: int) -> None:
    """Oracle: the window that commits one by one."""
    run, single = ReplayWindow(), ReplayWindow()
    for number, length in enumerate(lengths[:3]):
        if number % 2:  # a gap
            for window in (run, single):
                window.commit(window.head + 1 + length % 100)
        end = run.head + 1 + length
        run.commit_run(end)
        for counter in range(single.head + 1, end):
            single.commit(counter)
    assert (run.head, run.received) == (single.head, single.received)
    for counter in {probe, *range(max(0, run.head - WINDOW - 10), run.head + 10, 7)}:
        assert run.check(counter) == single.check(counter)
