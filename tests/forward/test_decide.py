"""The decision, as a table of cases; then that it answers everything and changes nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.drops import DropReason
from meshd.forward.claims import ClaimKind
from meshd.forward.decide import (
    UNKNOWN_BURST,
    TableView,
    UnknownBudget,
    decide_inbound,
    decide_outbound,
    spends,
)
from meshd.forward.engine.interface import Verdict
from meshd.forward.fdb import MAX_MOVES, Fdb
from meshd.forward.slots import FIRST_PEER, FLOOD, GROUP, LOCAL, MAX_PEERS, PeerSlots, drop_slot, slot_drop_reason
from meshd.ids import BROADCAST_MAC, HostId, Mac, SegmentId, SlotId

US, PEER, THIRD = (HostId(bytes([n]) * 16) for n in (1, 2, 3))
SEG = SegmentId(0)


def mac(text: str) -> Mac:
    return Mac(bytes.fromhex(text.replace(":", "")))


OURS = mac("02:00:00:00:00:01")
PEERS = mac("02:00:00:00:00:02")
THIRDS = mac("02:00:00:00:00:03")
FROZEN = mac("02:00:00:00:00:04")  # the peer's, and frozen
FROZEN_OURS = mac("02:00:00:00:00:05")
LOST = mac("02:00:00:00:00:06")  # the peer's, with a lost claim of ours
LOST_TO_THIRD = mac("02:00:00:00:00:07")
FROZEN_NOBODYS = mac("02:00:00:00:00:08")
ATTACHED = mac("02:00:00:00:00:09")  # of the peer's container
UNKNOWN = mac("02:00:00:00:00:99")
ZERO = mac("00:00:00:00:00:00")
MULTICAST = mac("01:00:5e:00:00:fb")
ND = mac("33:33:00:00:00:01")
STP = mac("01:80:c2:00:00:00")
LLDP = mac("01:80:c2:00:00:0e")
LAST_CONTROL = mac("01:80:c2:00:00:0f")
GARP = mac("01:80:c2:00:00:20")  # no longer of the block that bridges keep

PEER_SLOT, THIRD_SLOT = FIRST_PEER, SlotId(FIRST_PEER + 1)


@dataclass
class Memory:
    """Tables as plain dictionaries."""

    self_id: HostId = US
    owners: dict[Mac, HostId] = field(
        default_factory=lambda: {
            OURS: US,
            PEERS: PEER,
            THIRDS: THIRD,
            FROZEN: PEER,
            FROZEN_OURS: US,
            ATTACHED: PEER,
            LOST: PEER,
            LOST_TO_THIRD: THIRD,
        }
    )
    frozen_macs: frozenset[Mac] = frozenset({FROZEN, FROZEN_OURS, FROZEN_NOBODYS})
    attached: frozenset[Mac] = frozenset({ATTACHED})
    ours: frozenset[Mac] = frozenset({OURS, FROZEN_OURS, LOST, LOST_TO_THIRD})
    slots: dict[HostId, SlotId] = field(default_factory=lambda: {PEER: PEER_SLOT, THIRD: THIRD_SLOT})
    tokens: bool = True

    def owner(self, segment: SegmentId, mac: Mac) -> HostId | None:
        return self.owners.get(mac)

    def frozen(self, segment: SegmentId, mac: Mac) -> bool:
        return mac in self.frozen_macs

    def attached_elsewhere(self, segment: SegmentId, mac: Mac) -> bool:
        return mac in self.attached

    def claimed_here(self, segment: SegmentId, mac: Mac) -> bool:
        return mac in self.ours

    def slot(self, host: HostId) -> SlotId | None:
        return self.slots.get(host)

    def may_flood_unknown(self, peer: HostId | None, segment: SegmentId, source: Mac) -> bool:
        return self.tokens


def drop(reason: DropReason, cached: bool = True) -> Verdict:
    return Verdict(drop_slot(reason), cached)


OUTBOUND: list[tuple[str, Mac, Mac, Verdict]] = [
    ("to a peer's container", OURS, PEERS, Verdict(PEER_SLOT)),
    ("to another peer's", OURS, THIRDS, Verdict(THIRD_SLOT)),
    ("to a neighbour on this host", PEERS, OURS, drop(DropReason.LOCAL)),
    ("to a frozen MAC: its owner", OURS, FROZEN, Verdict(PEER_SLOT)),
    ("to a MAC that we lost: its owner", OURS, LOST, Verdict(PEER_SLOT)),
    ("broadcast", OURS, BROADCAST_MAC, Verdict(FLOOD)),
    ("IPv4 multicast", OURS, MULTICAST, Verdict(FLOOD)),
    ("IPv6 multicast", OURS, ND, Verdict(FLOOD)),
    ("a group that hosts join", OURS, mac("01:00:5e:01:02:03"), Verdict(GROUP)),
    ("an IPv6 group that hosts join", OURS, mac("33:33:00:01:00:03"), Verdict(GROUP)),
    ("solicited node", OURS, mac("33:33:ff:01:02:03"), Verdict(FLOOD)),
    ("MPLS multicast", OURS, mac("01:00:5e:80:00:01"), Verdict(FLOOD)),
    ("unknown destination", OURS, UNKNOWN, Verdict(FLOOD, cached=False)),
    ("unknown to unknown", UNKNOWN, UNKNOWN, Verdict(FLOOD, cached=False)),
    ("unknown source", UNKNOWN, PEERS, Verdict(PEER_SLOT)),
    ("all-zero destination", OURS, ZERO, Verdict(FLOOD, cached=False)),
    ("all-zero source", ZERO, PEERS, drop(DropReason.BAD_FRAME)),
    ("group source", MULTICAST, PEERS, drop(DropReason.SOURCE_MULTICAST)),
    ("broadcast source", BROADCAST_MAC, BROADCAST_MAC, drop(DropReason.SOURCE_MULTICAST)),
    ("STP", OURS, STP, drop(DropReason.LINK_LOCAL_CONTROL)),
    ("LLDP", OURS, LLDP, drop(DropReason.LINK_LOCAL_CONTROL)),
    ("the last of the block", OURS, LAST_CONTROL, drop(DropReason.LINK_LOCAL_CONTROL)),
    ("after the block", OURS, GARP, Verdict(FLOOD)),
    ("source that the peer has attached", ATTACHED, THIRDS, drop(DropReason.MAC_TAKEN)),
    ("source that the peer has attached, broadcast", ATTACHED, BROADCAST_MAC, drop(DropReason.MAC_TAKEN)),
    ("frozen source that is the peer's", FROZEN, THIRDS, drop(DropReason.MAC_FROZEN)),
    ("frozen source, broadcast", FROZEN, BROADCAST_MAC, drop(DropReason.MAC_FROZEN)),
    ("frozen source that is ours", FROZEN_OURS, THIRDS, Verdict(THIRD_SLOT)),
    ("frozen source, owner hidden", FROZEN_NOBODYS, THIRDS, Verdict(THIRD_SLOT)),
]

INBOUND: list[tuple[str, Mac, Mac, Verdict]] = [
    ("for us", PEERS, OURS, Verdict(LOCAL)),
    ("for us, source that the peer has attached", ATTACHED, OURS, Verdict(LOCAL)),
    ("for us, source of a third host", THIRDS, OURS, Verdict(LOCAL)),
    ("for us, source is ours", OURS, FROZEN_OURS, Verdict(LOCAL)),
    ("for us, source unknown", UNKNOWN, OURS, Verdict(LOCAL)),
    ("for us, source frozen", FROZEN, OURS, Verdict(LOCAL)),
    ("for a third host: redirected", PEERS, THIRDS, Verdict(THIRD_SLOT)),
    ("lost to a third host: redirected", PEERS, LOST_TO_THIRD, Verdict(THIRD_SLOT)),
    ("for the sender itself", PEERS, PEERS, drop(DropReason.FORWARD_LOOP)),
    ("for the sender itself, but we claim it too", PEERS, LOST, Verdict(LOCAL)),
    ("nobody's", PEERS, UNKNOWN, Verdict(LOCAL, cached=False)),
    ("broadcast as a plain frame", PEERS, BROADCAST_MAC, Verdict(LOCAL)),
    ("multicast as a plain frame", PEERS, MULTICAST, Verdict(LOCAL)),
    ("group source", MULTICAST, OURS, drop(DropReason.SOURCE_MULTICAST)),
    ("all-zero source", ZERO, OURS, drop(DropReason.BAD_FRAME)),
    ("STP", PEERS, STP, drop(DropReason.LINK_LOCAL_CONTROL)),
]


@pytest.mark.parametrize(("source", "destination", "verdict"), [c[1:] for c in OUTBOUND], ids=[c[0] for c in OUTBOUND])
def test_outbound(source: Mac, destination: Mac, verdict: Verdict) -> None:
    assert decide_outbound(SEG, source, destination, Memory()) == verdict


@pytest.mark.parametrize(("source", "destination", "verdict"), [c[1:] for c in INBOUND], ids=[c[0] for c in INBOUND])
def test_inbound(source: Mac, destination: Mac, verdict: Verdict) -> None:
    assert decide_inbound(PEER, SEG, source, destination, Memory()) == verdict


def test_other_segments_do_not_exist_yet() -> None:
    assert decide_outbound(SegmentId(1), OURS, PEERS, Memory()) == drop(DropReason.UNKNOWN_SEGMENT)
    assert decide_inbound(PEER, SegmentId(65535), PEERS, OURS, Memory()) == drop(DropReason.UNKNOWN_SEGMENT)


def test_unknown_destinations_over_budget() -> None:
    spent = Memory(tokens=False)
    assert decide_outbound(SEG, OURS, UNKNOWN, spent) == drop(DropReason.UNKNOWN_LIMITED, cached=False)
    assert decide_inbound(PEER, SEG, PEERS, UNKNOWN, spent) == drop(DropReason.NOT_LOCAL, cached=False)
    assert decide_outbound(SEG, OURS, PEERS, spent) == Verdict(PEER_SLOT)
    assert decide_outbound(SEG, OURS, BROADCAST_MAC, spent) == Verdict(FLOOD)


def test_no_slot_for_the_owner() -> None:
    full = Memory(slots={})
    assert decide_outbound(SEG, OURS, PEERS, full) == drop(DropReason.NO_PATH, cached=False)
    assert decide_inbound(PEER, SEG, PEERS, THIRDS, full) == drop(DropReason.NO_PATH, cached=False)


def test_only_floods_of_unknowns_spend() -> None:
    verdicts = [case[3] for case in OUTBOUND + INBOUND]
    assert {v for v in verdicts if spends(v)} == {Verdict(FLOOD, cached=False), Verdict(LOCAL, cached=False)}
    assert not spends(drop(DropReason.UNKNOWN_LIMITED, cached=False))


# everything is answered, nothing is changed

MACS = st.one_of(
    st.sampled_from([OURS, PEERS, THIRDS, FROZEN, LOST, UNKNOWN, ZERO, MULTICAST, STP, BROADCAST_MAC]),
    st.binary(min_size=6, max_size=6).map(Mac),
)


class Question(NamedTuple):
    peer: HostId
    segment: SegmentId
    source: Mac
    destination: Mac


QUESTIONS = st.builds(
    Question,
    st.sampled_from([US, PEER, THIRD, HostId(b"?" * 16)]),
    st.one_of(st.just(0), st.integers(0, 65535)).map(SegmentId),
    MACS,
    MACS,
)


@given(QUESTIONS, st.booleans())
def test_total_and_pure(question: Question, tokens: bool) -> None:
    tables = Memory(tokens=tokens)
    before = copy.deepcopy(tables)
    peer, segment, source, destination = question
    outbound = decide_outbound(segment, source, destination, tables)
    inbound = decide_inbound(peer, segment, source, destination, tables)
    assert tables == before
    assert outbound == decide_outbound(segment, source, destination, tables)
    assert outbound.slot in (FLOOD, PEER_SLOT, THIRD_SLOT) or slot_drop_reason(outbound.slot) is not None
    assert inbound.slot in (LOCAL, PEER_SLOT, THIRD_SLOT) or slot_drop_reason(inbound.slot) is not None
    assert inbound.slot != FLOOD  # what comes from the mesh is never flooded into it again
    if peer in (PEER, THIRD):
        assert inbound.slot != tables.slots[peer]  # nor sent back


# with the real tables


@pytest.fixture
def view() -> TableView:
    fdb = Fdb(US)
    fdb.set_reachable([PEER, THIRD])
    fdb.set_claim(US, SEG, OURS, 1, ClaimKind.ATTACHMENT, "web", 0)
    fdb.set_claim(PEER, SEG, PEERS, 1, ClaimKind.ATTACHMENT, "db", 0)
    return TableView(US, fdb, PeerSlots(), UnknownBudget(), 0.0)


def test_real_tables(view: TableView) -> None:
    assert decide_outbound(SEG, OURS, PEERS, view) == Verdict(view.slots.slot(PEER))
    assert decide_inbound(PEER, SEG, PEERS, OURS, view) == Verdict(LOCAL)
    view.fdb.set_claim(PEER, SEG, OURS, 2, ClaimKind.ATTACHMENT, "", 1)
    assert decide_inbound(PEER, SEG, PEERS, OURS, view) == Verdict(LOCAL)  # lost, and said to be here: deliver
    view.fdb.drop_claim(US, SEG, OURS, 2)
    assert decide_inbound(PEER, SEG, PEERS, OURS, view) == drop(DropReason.FORWARD_LOOP)
    view.fdb.set_reachable([])
    assert decide_outbound(SEG, OURS, PEERS, view) == Verdict(FLOOD, cached=False)


def test_real_budget_is_spent_by_the_caller_only(view: TableView) -> None:
    verdicts = [decide_outbound(SEG, OURS, UNKNOWN, view) for _ in range(50)]
    assert set(verdicts) == {Verdict(FLOOD, cached=False)}
    for _ in range(int(UNKNOWN_BURST)):
        assert spends(decide_outbound(SEG, OURS, UNKNOWN, view))
        view.budget.take(None, SEG, OURS, view.now)
    assert decide_outbound(SEG, OURS, UNKNOWN, view) == drop(DropReason.UNKNOWN_LIMITED, cached=False)
    assert spends(decide_outbound(SEG, THIRDS, UNKNOWN, view))  # another source
    assert spends(decide_inbound(PEER, SEG, OURS, UNKNOWN, view))  # the same, heard from a peer
    later = TableView(US, view.fdb, view.slots, view.budget, 1.0)
    assert spends(decide_outbound(SEG, OURS, UNKNOWN, later))


def test_real_attachment_elsewhere(view: TableView) -> None:
    view.fdb.set_claim(PEER, SEG, ATTACHED, 1, ClaimKind.ATTACHMENT, "web", 0)
    assert decide_outbound(SEG, ATTACHED, PEERS, view) == drop(DropReason.MAC_TAKEN)
    view.fdb.set_claim(US, SEG, ATTACHED, 1, ClaimKind.ATTACHMENT, "ours too", 0)  # two have it: both are heard
    assert decide_outbound(SEG, ATTACHED, PEERS, view).slot == view.slots.slot(PEER)


def test_real_freeze(view: TableView) -> None:
    for index in range(MAX_MOVES + 2):
        view.fdb.set_claim((US, PEER)[index % 2], SEG, FROZEN, index + 1, ClaimKind.LEARNED, "", 0)
    view.fdb.set_claim(PEER, SEG, FROZEN, 20, ClaimKind.LEARNED, "", 0)
    assert decide_outbound(SEG, FROZEN, PEERS, view) == drop(DropReason.MAC_FROZEN)


def test_real_slots_run_out(view: TableView) -> None:
    for number in range(MAX_PEERS):
        view.slots.slot(HostId(b"\xff" + number.to_bytes(15, "big")))
    assert decide_outbound(SEG, OURS, PEERS, view) == drop(DropReason.NO_PATH, cached=False)
