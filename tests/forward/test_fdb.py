"""The MAC table: precedence, mobility, freezing, hiding, learning and its bounds; then against a plain oracle."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.forward import fdb as fdb_module
from meshd.forward.claims import Claim, ClaimKind, FdbEvent, MacKey
from meshd.forward.fdb import (
    LEARN_RATE,
    LEARNED_AGE,
    MAX_LEARNED,
    MAX_MOVES,
    MAX_NUMBER,
    MAX_WAITING,
    MOVE_WINDOW,
    Fdb,
)
from meshd.ids import HostId, Mac, SegmentId

A, B, C = (HostId(bytes([n]) * 16) for n in (0xA, 0xB, 0xC))
SEG = SegmentId(0)
MAC = Mac(bytes.fromhex("02000000aa01"))
OTHER = Mac(bytes.fromhex("02000000aa02"))
KEY = MacKey(SEG, MAC)
ATT, LEARNED = ClaimKind.ATTACHMENT, ClaimKind.LEARNED


def mac(number: int) -> Mac:
    return Mac(b"\x02" + number.to_bytes(5, "big"))


@pytest.fixture
def fdb() -> Fdb:
    """Host A's table, with everyone reachable."""
    table = Fdb(A)
    table.set_reachable([B, C])
    return table


def sight(table: Fdb, host: HostId, address: Mac, now: float) -> bool:
    """What a node does with a captured frame: publish what is asked for; True if it did."""
    number = table.local_sight(SEG, address, now)
    if number is not None:
        table.set_claim(host, SEG, address, number, LEARNED, "", now)
    return number is not None


# precedence


def test_unknown_mac(fdb: Fdb) -> None:
    assert fdb.lookup(SEG, MAC) is None
    assert fdb.own_claim(SEG, MAC) is None
    assert not fdb.is_frozen(SEG, MAC)
    assert not fdb.drop_claim(B, SEG, MAC, 0)
    assert fdb.drop_host(B) == []


@pytest.mark.parametrize("kind", ClaimKind)
def test_highest_number_wins(fdb: Fdb, kind: ClaimKind) -> None:
    assert fdb.set_claim(B, SEG, MAC, 1, kind, "web", 0)
    assert not fdb.set_claim(C, SEG, MAC, 1, kind, "", 1)
    assert fdb.lookup(SEG, MAC) == B  # equal: lower id
    assert fdb.set_claim(C, SEG, MAC, 2, kind, "", 2)
    assert fdb.lookup(SEG, MAC) == C
    assert fdb.set_claim(C, SEG, MAC, 0, kind, "", 3)  # an origin's latest word counts, also a lower one
    assert fdb.lookup(SEG, MAC) == B


def test_what_is_attached_does_not_move_by_being_seen_elsewhere(fdb: Fdb) -> None:
    assert fdb.set_claim(B, SEG, MAC, 1, ATT, "web", 0)
    assert fdb.attached_elsewhere(SEG, MAC)
    assert not sight(fdb, A, MAC, 1)
    assert not fdb.set_claim(C, SEG, MAC, 9, LEARNED, "", 2)  # of an older version
    assert fdb.lookup(SEG, MAC) == B
    fdb.set_reachable([C])  # hidden: it may have gone there
    assert fdb.lookup(SEG, MAC) == C
    assert not fdb.attached_elsewhere(SEG, MAC)
    assert sight(fdb, A, MAC, 3)
    assert fdb.lookup(SEG, MAC) == A
    assert not sight(fdb, A, MAC, 4)  # once is enough
    fdb.set_reachable([B, C])
    assert fdb.lookup(SEG, MAC) == B


def test_an_attachment_of_our_own_is_raised_where_another_has_one(fdb: Fdb) -> None:
    fdb.set_claim(B, SEG, MAC, 5, ATT, "web", 0)
    fdb.set_claim(A, SEG, MAC, 1, ATT, "db", 0)
    assert not fdb.attached_elsewhere(SEG, MAC)
    assert fdb.local_sight(SEG, MAC, 1) == 6


def test_an_attachment_takes_the_mac_from_who_has_only_seen_it(fdb: Fdb) -> None:
    fdb.set_claim(B, SEG, MAC, 7, LEARNED, "", 0)
    assert fdb.set_claim(A, SEG, MAC, 1, ATT, "web", 1)
    assert fdb.lookup(SEG, MAC) == A
    assert fdb.local_sight(SEG, MAC, 2) is None


def test_flows_are_void_when_an_owner_attaches_what_it_had_only_seen(fdb: Fdb) -> None:
    fdb.set_claim(B, SEG, MAC, 1, LEARNED, "", 0)
    assert not fdb.attached_elsewhere(SEG, MAC)
    for number in range(2 * MAX_MOVES):
        assert fdb.set_claim(B, SEG, MAC, 2, ATT, "web", number)
        assert fdb.attached_elsewhere(SEG, MAC)
        assert fdb.drop_claim(B, SEG, MAC, number, kind=ATT)
    assert not fdb.is_frozen(SEG, MAC)  # it did not move


def test_segments_are_apart(fdb: Fdb) -> None:
    fdb.set_claim(B, SegmentId(7), MAC, 1, ATT, "web", 0)
    assert fdb.lookup(SEG, MAC) is None
    assert fdb.lookup(SegmentId(7), MAC) == B


def test_two_attachments_of_one_host_come_and_go_in_any_order(fdb: Fdb) -> None:
    """A restarted container: the new attachment is announced before the old one is withdrawn."""
    fdb.set_claim(B, SEG, MAC, 1, ATT, "old", 0)
    fdb.set_claim(B, SEG, MAC, 1, ATT, "new", 0)
    fdb.set_claim(B, SEG, MAC, 1, LEARNED, "", 0)
    assert not fdb.drop_claim(B, SEG, MAC, 1, kind=ATT, label="old")
    assert [view.label for view in fdb.views()] == ["new"]
    assert fdb.drop_claim(B, SEG, MAC, 1, kind=ATT)  # nobody owns it by an attachment any more
    assert [view.kind for view in fdb.views()] == [LEARNED]
    assert fdb.drop_claim(B, SEG, MAC, 1)
    assert (len(fdb), fdb.views()) == (0, [])


@pytest.mark.parametrize("number", [-1, MAX_NUMBER + 1])
def test_impossible_number(fdb: Fdb, number: int) -> None:
    with pytest.raises(LocalProtocolError):
        fdb.set_claim(B, SEG, MAC, number, ATT, "", 0)
    assert len(fdb) == 0


# hiding


def test_unreachable_hosts_are_hidden_not_removed(fdb: Fdb) -> None:
    fdb.set_claim(B, SEG, MAC, 2, ATT, "web", 0)
    fdb.set_claim(C, SEG, MAC, 1, ATT, "web2", 0)
    fdb.set_claim(C, SEG, OTHER, 1, ATT, "web2", 0)
    assert fdb.set_reachable([C]) == [KEY]
    assert fdb.lookup(SEG, MAC) == C
    assert fdb.set_reachable([]) == [KEY, MacKey(SEG, OTHER)]
    assert fdb.lookup(SEG, MAC) is None
    assert fdb.views() == []
    assert fdb.set_reachable([B]) == [KEY]
    assert fdb.lookup(SEG, MAC) == B
    assert fdb.set_reachable([B]) == []


def test_at_first_only_this_host_is_reachable() -> None:
    fdb = Fdb(A)
    assert not fdb.set_claim(B, SEG, MAC, 1, ATT, "", 0)
    assert fdb.set_claim(A, SEG, OTHER, 1, ATT, "", 0)
    assert fdb.set_reachable([B]) == [KEY]


def test_drop_host_names_what_changed(fdb: Fdb) -> None:
    fdb.set_claim(B, SEG, MAC, 2, ATT, "web", 0)
    fdb.set_claim(C, SEG, MAC, 1, ATT, "web", 0)
    fdb.set_claim(A, SEG, OTHER, 5, ATT, "db", 0)
    fdb.set_claim(B, SEG, OTHER, 1, ATT, "db", 0)
    assert fdb.drop_host(B) == [KEY]
    assert (fdb.lookup(SEG, MAC), fdb.lookup(SEG, OTHER)) == (C, A)


# mobility


def test_local_sight_of_a_new_mac_and_again(fdb: Fdb) -> None:
    assert fdb.local_sight(SEG, MAC, 0) == 1
    assert fdb.local_sight(SEG, MAC, 0) == 1  # nothing was published yet
    fdb.set_claim(A, SEG, MAC, 1, LEARNED, "", 0)
    assert fdb.local_sight(SEG, MAC, 1) is None


def test_local_sight_of_a_mac_claimed_elsewhere(fdb: Fdb) -> None:
    fdb.set_claim(B, SEG, MAC, 7, LEARNED, "", 0)
    fdb.set_claim(C, SEG, MAC, 9, LEARNED, "", 0)
    assert fdb.local_sight(SEG, MAC, 1) == 10


def test_a_hidden_claim_counts_when_a_number_is_raised(fdb: Fdb) -> None:
    """The container was moved away from a host that died: when the host is back, the container must not go back to it."""
    fdb.set_claim(B, SEG, MAC, 7, ATT, "web", 0)
    fdb.set_reachable([C])
    assert fdb.next_number(SEG, MAC) == 8
    fdb.set_claim(A, SEG, MAC, 3, ATT, "web", 0)
    assert fdb.lookup(SEG, MAC) == A
    assert fdb.local_sight(SEG, MAC, 1) == 8
    fdb.set_claim(A, SEG, MAC, 8, ATT, "web", 0)
    assert fdb.set_reachable([B, C]) == []
    assert fdb.lookup(SEG, MAC) == A


def test_next_number(fdb: Fdb) -> None:
    assert fdb.next_number(SEG, MAC) == 1
    fdb.set_claim(A, SEG, MAC, 4, ATT, "web", 0)
    assert fdb.next_number(SEG, MAC) == 4
    fdb.set_claim(B, SEG, MAC, 6, ATT, "web", 0)
    assert fdb.next_number(SEG, MAC) == 7
    assert fdb.own_claim(SEG, MAC) == Claim(4, ATT, "web")


def test_a_number_does_not_wrap(fdb: Fdb) -> None:
    fdb.set_claim(B, SEG, MAC, MAX_NUMBER, LEARNED, "", 0)
    assert fdb.local_sight(SEG, MAC, 1) is None
    assert fdb.next_number(SEG, MAC) == MAX_NUMBER


def bounce(table: Fdb, moves: int, start: float = 0.0, step: float = 1.0) -> float:
    """The MAC moves that many times between B and A, beginning at B; returns the time of the last move."""
    now = start
    for index in range(moves + 1):
        now = start + index * step
        table.set_claim((B, A)[index % 2], SEG, MAC, index + 1, LEARNED, "", now)
    return now


def test_more_than_five_moves_freeze(fdb: Fdb) -> None:
    bounce(fdb, MAX_MOVES)
    assert not fdb.is_frozen(SEG, MAC)
    assert fdb.next_event() is None
    last = MAX_MOVES + 1
    assert fdb.local_sight(SEG, MAC, last) is None  # index 5 is A's: ours already
    fdb.set_claim(B, SEG, MAC, 7, LEARNED, "", last)
    assert fdb.is_frozen(SEG, MAC)
    assert fdb.next_event() == FdbEvent(segment=SEG, mac=MAC, frozen=True, owner=B)
    assert fdb.next_event() is None
    assert fdb.local_sight(SEG, MAC, last + 1) is None  # would be 8
    assert fdb.lookup(SEG, MAC) == B
    assert [(c.mac, c.frozen) for c in fdb.conflicts()] == [(MAC, True)]
    assert [v.frozen for v in fdb.views()] == [True]


def test_slow_moves_are_no_conflict(fdb: Fdb) -> None:
    bounce(fdb, 20, step=MOVE_WINDOW / MAX_MOVES + 1)
    assert not fdb.is_frozen(SEG, MAC)


def test_thaw_after_a_rest(fdb: Fdb) -> None:
    last = bounce(fdb, MAX_MOVES + 1)
    fdb.next_event()
    assert fdb.thaw(last + MOVE_WINDOW - 0.1) == []
    assert fdb.thaw(last + MOVE_WINDOW) == [KEY]
    assert fdb.next_event() == FdbEvent(segment=SEG, mac=MAC, frozen=False, owner=B)
    assert not fdb.is_frozen(SEG, MAC)
    assert fdb.local_sight(SEG, MAC, last + MOVE_WINDOW) == 8
    assert fdb.conflicts() == []


def test_a_frozen_mac_that_nobody_has_any_more_is_claimed_where_it_is_seen(fdb: Fdb) -> None:
    """The wrong one of two had it, and died: else it would be no host's until it thaws, and get ten frames a second."""
    last = bounce(fdb, MAX_MOVES + 1)
    fdb.drop_claim(A, SEG, MAC, last)
    fdb.set_reachable([C])
    assert fdb.is_frozen(SEG, MAC)
    assert fdb.lookup(SEG, MAC) is None
    assert fdb.local_sight(SEG, MAC, last + 1) == 8
    fdb.set_claim(A, SEG, MAC, 8, LEARNED, "", last + 1)
    fdb.set_reachable([B, C])
    assert fdb.lookup(SEG, MAC) == A


def test_a_move_while_frozen_prolongs_it(fdb: Fdb) -> None:
    last = bounce(fdb, MAX_MOVES + 1)
    fdb.set_claim(C, SEG, MAC, 50, LEARNED, "", last + 100)
    assert fdb.lookup(SEG, MAC) == C  # the owner stays a function of the claims, the same on every host
    assert fdb.thaw(last + MOVE_WINDOW) == []
    assert fdb.thaw(last + 100 + MOVE_WINDOW) == [KEY]


def test_a_move_after_the_rest_counts_anew_even_if_thaw_is_late(fdb: Fdb) -> None:
    last = bounce(fdb, MAX_MOVES + 1)
    fdb.set_claim(C, SEG, MAC, 50, LEARNED, "", last + MOVE_WINDOW + 1)
    assert not fdb.is_frozen(SEG, MAC)


def test_failover_and_replacement_are_no_moves(fdb: Fdb) -> None:
    for index in range(20):
        fdb.set_claim(B, SEG, MAC, 2 * index + 1, ATT, "web", index)
        fdb.set_reachable([C])
        fdb.set_reachable([B, C])
        fdb.drop_claim(B, SEG, MAC, index)
        fdb.set_claim(C, SEG, MAC, 2 * index + 2, ATT, "web", index)
        fdb.drop_claim(C, SEG, MAC, index)
    assert not fdb.is_frozen(SEG, MAC)
    assert fdb.next_event() is None


def test_a_frozen_mac_without_claims_is_forgotten(fdb: Fdb) -> None:
    last = bounce(fdb, MAX_MOVES + 1)
    fdb.drop_host(A)
    fdb.drop_host(B)
    assert not fdb.is_frozen(SEG, MAC)
    assert fdb.thaw(last + MOVE_WINDOW) == []


def test_events_are_bounded(fdb: Fdb) -> None:
    for number in range(fdb_module.MAX_EVENTS + 10):
        for index in range(MAX_MOVES + 2):
            fdb.set_claim((B, C)[index % 2], SEG, mac(number), index, ATT, "", 0)
    events = list(iter(fdb.next_event, None))
    assert len(events) == fdb_module.MAX_EVENTS
    assert events[0].mac == mac(10)


def test_a_duplicated_mac_calms_down_on_both_hosts() -> None:
    """Two tables, claims exchanged after every frame, the MAC live on both hosts: few claims are made, both agree."""
    tables = {A: Fdb(A), B: Fdb(B)}
    for table in tables.values():
        table.set_reachable([A, B])
    published = 0
    for tick in range(400):
        me = (A, B)[tick % 2]
        number = tables[me].local_sight(SEG, MAC, tick / 10)
        if number is not None:
            published += 1
            for table in tables.values():
                table.set_claim(me, SEG, MAC, number, LEARNED, "", tick / 10)
    assert published == MAX_MOVES + 2
    assert tables[A].lookup(SEG, MAC) == tables[B].lookup(SEG, MAC) is not None
    assert all(table.is_frozen(SEG, MAC) for table in tables.values())


# learning


@pytest.mark.parametrize("address", ["ffffffffffff", "01005e000001", "333300000001", "000000000000"])
def test_what_is_no_station_is_not_learned(fdb: Fdb, address: str) -> None:
    assert fdb.local_sight(SEG, Mac(bytes.fromhex(address)), 0) is None


def test_learning_is_rate_limited(fdb: Fdb) -> None:
    assert sum(sight(fdb, A, mac(n), 0.0) for n in range(500)) == LEARN_RATE
    assert sum(sight(fdb, A, mac(n), 0.5) for n in range(500)) == LEARN_RATE / 2
    assert not sight(fdb, A, mac(0), 0.5)  # known


def test_what_is_over_the_rate_waits(fdb: Fdb) -> None:
    rate = int(LEARN_RATE)
    for number in range(rate + MAX_WAITING + 5):
        sight(fdb, A, mac(number), 0.0)
    assert fdb.take_waiting() == [MacKey(SEG, mac(rate + number)) for number in range(rate)]
    assert not sight(fdb, A, mac(rate), 0.0)  # behind the others again
    assert sight(fdb, A, mac(3 * rate), 0.5)  # seen again meanwhile: it waits no longer
    left = []
    while fdb.waits:
        left += fdb.take_waiting()
    assert left[-1] == MacKey(SEG, mac(rate))
    assert MacKey(SEG, mac(3 * rate)) not in left
    assert len(left) == MAX_WAITING - rate
    assert fdb.take_waiting() == []


def test_learning_is_capped(fdb: Fdb) -> None:
    learned = sum(sight(fdb, A, mac(n), float(n)) for n in range(MAX_LEARNED + 5))
    assert learned == MAX_LEARNED
    assert fdb.drops[DropReason.TABLE_FULL] == 5
    fdb.drop_claim(A, SEG, mac(0), 1e4)
    assert sight(fdb, A, mac(MAX_LEARNED + 1), 1e4)


def test_learning_a_mac_of_another_host_is_limited_too(fdb: Fdb) -> None:
    for n in range(200):
        fdb.set_claim(B, SEG, mac(n), 1, LEARNED, "", 0)
    assert sum(sight(fdb, A, mac(n), 0.0) for n in range(200)) == LEARN_RATE


def test_raising_a_claim_that_we_have_is_not_learning(fdb: Fdb) -> None:
    for n in range(int(LEARN_RATE)):
        sight(fdb, A, mac(n), 0.0)
    for n in range(int(LEARN_RATE)):
        fdb.set_claim(B, SEG, mac(n), 2, LEARNED, "", 0)
        assert fdb.local_sight(SEG, mac(n), 0.0) == 3


def test_learned_macs_age_unless_seen_here(fdb: Fdb) -> None:
    for number in (1, 2, 3):
        sight(fdb, A, mac(number), 0.0)
    fdb.set_claim(A, SEG, mac(4), 1, ATT, "web", 0)
    fdb.touch(SEG, mac(2), 10.0, local=True)
    fdb.touch(SEG, mac(3), 500.0, local=False)  # seen in frames from elsewhere: no reason to keep our claim
    fdb.touch(SEG, mac(99), 10.0, local=True)  # unknown: nothing
    assert fdb.expire_learned(LEARNED_AGE - 1) == []
    assert fdb.expire_learned(LEARNED_AGE) == [MacKey(SEG, mac(1)), MacKey(SEG, mac(3))]
    assert fdb.expire_learned(LEARNED_AGE + 10) == [MacKey(SEG, mac(2))]
    assert fdb.expire_learned(1e9) == []
    assert [view.mac for view in fdb.views()] == [mac(4)]


def test_an_overtaken_learned_claim_is_withdrawn_an_attachment_stays(fdb: Fdb) -> None:
    sight(fdb, A, MAC, 0.0)
    fdb.set_claim(A, SEG, OTHER, 1, ATT, "web", 0)
    fdb.set_claim(B, SEG, MAC, 2, LEARNED, "", 1)
    fdb.set_claim(B, SEG, OTHER, 2, ATT, "db", 1)
    assert [c.mac for c in fdb.conflicts()] == [OTHER]
    assert fdb.expire_learned(1.0) == [KEY]
    assert fdb.own_claim(SEG, MAC) is None
    assert fdb.own_claim(SEG, OTHER) is not None
    assert fdb.conflicts()[0].claims == ((B, Claim(2, ATT, "db")), (A, Claim(1, ATT, "web")))


def test_a_table_full_of_others_still_takes_our_own(fdb: Fdb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdb_module, "MAX_CLAIMS", 3)
    for n in range(5):
        fdb.set_claim(B, SEG, mac(n), 1, ATT, "", 0)
    assert fdb.drops[DropReason.TABLE_FULL] == 2
    assert fdb.lookup(SEG, mac(3)) is None
    assert not fdb.set_claim(B, SEG, mac(0), 2, ATT, "", 0)  # known: replaced, not refused
    assert fdb.set_claim(A, SEG, mac(9), 1, ATT, "web", 0)
    assert fdb.drops[DropReason.TABLE_FULL] == 2
    fdb.drop_host(B)
    assert fdb.set_claim(C, SEG, mac(3), 1, ATT, "", 0)


def test_view(fdb: Fdb) -> None:
    fdb.set_claim(A, SEG, MAC, 3, ATT, "web", 5.0)
    fdb.set_claim(B, SEG, OTHER, 1, LEARNED, "", 6.0)
    fdb.touch(SEG, OTHER, 9.0, local=False)
    first, second = fdb.views()
    assert (first.mac, first.segment, first.owner, first.kind, first.claim, first.label) == (MAC, SEG, A, ATT, 3, "web")
    assert (first.local, first.frozen, first.last_seen) == (True, False, 5.0)
    assert (second.owner, second.local, second.last_seen) == (B, False, 9.0)


# against an oracle


class Set(NamedTuple):
    host: HostId
    mac: Mac
    kind: ClaimKind
    label: str
    number: int


class Drop(NamedTuple):
    host: HostId
    mac: Mac
    kind: ClaimKind
    label: str


class Forget(NamedTuple):
    host: HostId


class Reach(NamedTuple):
    hosts: frozenset[HostId]


HOSTS = st.sampled_from([A, B, C])
CLAIM = (HOSTS, st.integers(0, 2).map(mac), st.sampled_from(ClaimKind), st.sampled_from(["", "x"]))
SETS = st.builds(Set, *CLAIM, st.integers(0, 3))
OPERATIONS = st.one_of(SETS, st.builds(Drop, *CLAIM), st.builds(Forget, HOSTS), st.builds(Reach, st.frozensets(HOSTS)))


class Oracle:
    """All claims in one dict; the owners computed from scratch."""

    def __init__(self) -> None:
        self.claims: dict[Drop, int] = {}
        self.reachable = frozenset({A})

    def apply(self, operation: Set | Drop | Forget | Reach) -> None:
        match operation:
            case Set(host, address, kind, label, number):
                self.claims[Drop(host, address, kind, label)] = number
            case Drop():
                self.claims.pop(operation, None)
            case Forget(host):
                self.claims = {claim: number for claim, number in self.claims.items() if claim.host != host}
            case Reach(hosts):
                self.reachable = hosts | {A}

    def owners(self) -> dict[MacKey, tuple[HostId, ClaimKind]]:
        best: dict[MacKey, tuple[ClaimKind, int, HostId]] = {}
        for claim, number in self.claims.items():
            if claim.host in self.reachable:
                key, rank = MacKey(SEG, claim.mac), (claim.kind, -number, claim.host)
                best[key] = min(best.get(key, rank), rank)
        return {key: (host, kind) for key, (kind, _, host) in best.items()}


def apply(table: Fdb, operation: Set | Drop | Forget | Reach) -> set[MacKey]:
    match operation:
        case Set(host, address, kind, label, number):
            return {MacKey(SEG, address)} if table.set_claim(host, SEG, address, number, kind, label, 0.0) else set()
        case Drop(host, address, kind, label):
            changed = table.drop_claim(host, SEG, address, 0.0, kind=kind, label=label)
            return {MacKey(SEG, address)} if changed else set()
        case Forget(host):
            return set(table.drop_host(host))
        case Reach(hosts):
            return set(table.set_reachable(hosts))


@given(st.lists(OPERATIONS, max_size=40))
def test_against_an_oracle(operations: list[Set | Drop | Forget | Reach]) -> None:
    table, oracle = Fdb(A), Oracle()
    for operation in operations:
        before = oracle.owners()
        oracle.apply(operation)
        after = oracle.owners()
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert apply(table, operation) == changed
        assert {MacKey(view.segment, view.mac): (view.owner, view.kind) for view in table.views()} == after
        assert len(table) == len({claim.mac for claim in oracle.claims})


@given(st.lists(SETS, max_size=12, unique_by=lambda claim: claim[:4]), st.randoms(use_true_random=False))
def test_the_owner_does_not_depend_on_the_order(claims: list[Set], rng: random.Random) -> None:
    results = []
    for _ in range(2):
        table = Fdb(A)
        table.set_reachable([A, B, C])
        for claim in rng.sample(claims, len(claims)):
            apply(table, claim)
        results.append([(view.mac, view.owner, view.claim, view.kind, view.label) for view in table.views()])
    assert results[0] == results[1]
