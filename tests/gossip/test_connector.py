"""Whom to dial and when: tables of what was reported, what is asked for next, and what the status shows."""

from __future__ import annotations

from random import Random

import pytest

from meshd.errors import UserError
from meshd.gossip.connector import MAX_DIALS, MAX_RESOLVED, MAX_TARGETS, Connector
from meshd.gossip.linktypes import NO_ANSWER
from meshd.gossip.requests import Close, Connection, Dial, Resolve
from meshd.gossip.targets import BACKOFF_LAST, Backoff, parse_target
from meshd.ids import Endpoint, HostId, LinkId

ME = HostId(b"\x50" * 16)
LOWER = HostId(b"\x10" * 16)
HIGHER = HostId(b"\x90" * 16)
ONE = Endpoint("192.0.2.1", 6783)
TWO = Endpoint("192.0.2.2", 6783)


def make(*targets: str, discovery: bool = True) -> Connector:
    connector = Connector(me=ME, rng=Random(1), discovery=discovery)
    connector.connect(targets, 0.0)
    return connector


def up(
    connector: Connector, endpoint: Endpoint, host: HostId, now: float, *, link: int = 1, outbound: bool = True
) -> None:
    if outbound:
        connector.link_dialled(LinkId(link), endpoint, now)
    else:
        connector.link_accepted(LinkId(link), endpoint, now)
    connector.link_ready(LinkId(link), host, now)


@pytest.mark.parametrize(
    ("text", "host", "port", "numeric"),
    [
        ("host2", "host2", 6783, None),
        ("host2:7000", "host2", 7000, None),
        ("a.example.org.", "a.example.org.", 6783, None),
        ("192.0.2.1", "192.0.2.1", 6783, ONE),
        ("192.0.2.1:7000", "192.0.2.1", 7000, Endpoint("192.0.2.1", 7000)),
        ("fd00::1", "fd00::1", 6783, Endpoint("fd00::1", 6783)),
        ("[fd00::1]:7000", "fd00::1", 7000, Endpoint("fd00::1", 7000)),
        ("[fd00::1]", "fd00::1", 6783, Endpoint("fd00::1", 6783)),
    ],
)
def test_targets_as_typed(text: str, host: str, port: int, numeric: Endpoint | None) -> None:
    target = parse_target(text, 6783)
    assert (target.text, target.host, target.port, target.numeric) == (text, host, port, numeric)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":6783",
        "host:",
        "host:0",
        "host:65536",
        "host:x",
        "host name",
        "a..b",
        "-a",
        "a" * 64,
        "1.2.3",
        "300.1.1.1",
        "[fd00::1",
        "[fd00::1]x",
        "[]:1",
        "[host]:1",
        "host:١",
        ".".join(["a" * 60] * 5),
        "a/b",
        "host:1:2",
    ],
)
def test_malformed_targets(text: str) -> None:
    with pytest.raises(UserError, match="not a peer"):
        parse_target(text, 6783)


def test_backoff_grows_to_its_end_and_is_reset() -> None:
    backoff, rng = Backoff(), Random(3)
    waits = [backoff.next(rng) for _ in range(200)]
    assert 0.25 <= waits[0] <= 0.75
    assert max(waits) <= BACKOFF_LAST * 1.5
    assert min(waits[20:]) >= BACKOFF_LAST * 0.5
    assert len({round(wait) for wait in waits[20:]}) > 20  # jittered
    backoff.reset()
    assert backoff.next(rng) <= 0.75


def test_life_of_an_address() -> None:
    connector = make("192.0.2.1")
    assert connector.next_deadline() == 0.0
    assert connector.poll(0.0) == [Dial(ONE, None, False)]
    assert connector.poll(0.0) == []
    assert connector.next_deadline() is None
    assert connector.connections(0.0) == [Connection(str(ONE), True, "connecting", "")]

    connector.dial_failed(ONE, "connection refused", 1.0)
    due = connector.next_deadline()
    assert due is not None
    assert 1.25 <= due <= 1.75
    assert connector.connections(1.0)[0].state == "retrying"
    assert connector.connections(due - 3)[0].info == "connection refused, retry: in 3 s"
    assert connector.poll(due - 0.01) == []
    assert connector.poll(due) == [Dial(ONE, None, False)]
    assert connector.connections(due) == [Connection(str(ONE), True, "retrying", "connection refused")]

    up(connector, ONE, LOWER, due)
    assert connector.connections(due) == [Connection(str(ONE), True, "pending", "", LOWER)]
    connector.path_alive(LOWER, True, 0.0)
    assert connector.connections(due) == [Connection(str(ONE), True, "established", "", LOWER)]
    connector.path_alive(LOWER, False, 0.0)
    assert connector.connections(due)[0].state == "pending"
    assert connector.next_deadline() is None

    connector.link_down(LinkId(1), "nothing heard for 30 s", due + 100)
    again = connector.next_deadline()
    assert again is not None
    assert again <= due + 100.75  # it had lasted: no backoff
    assert connector.poll(again) == [Dial(ONE, LOWER, False)]


def test_a_failed_handshake_is_tried_the_other_way() -> None:
    connector = make()
    connector.want({LOWER: [ONE]}, 0.0)
    now = 0.0
    for link, bootstrap in enumerate([False, True, False, True], 1):
        due = connector.next_deadline()
        assert due is not None
        now = max(now, due)
        assert now < 60
        assert connector.poll(now) == [Dial(ONE, LOWER, bootstrap)]
        connector.link_dialled(LinkId(link), ONE, now)
        connector.link_down(LinkId(link), NO_ANSWER, now)
    assert connector.connections(now)[0].info.startswith("no answer to our key")


def test_ourself_is_never_dialled_again() -> None:
    connector = make("192.0.2.1")
    connector.poll(0.0)
    connector.link_dialled(LinkId(1), ONE, 0.0)
    connector.link_down(LinkId(1), "cannot connect to ourself", 0.0, ourself=True)
    assert connector.next_deadline() is None
    assert connector.poll(1e6) == []
    connector.connect(["192.0.2.1"], 1e6)
    assert connector.poll(1e6) == []
    assert connector.connections(1.0) == [
        Connection(str(ONE), True, "failed", "cannot connect to ourself, retry: never")
    ]


def test_own_endpoints_are_not_dialled() -> None:
    connector = Connector(me=ME, rng=Random(1))
    connector.set_own_endpoints(frozenset({ONE}))
    connector.connect(["192.0.2.1", "192.0.2.2"], 0.0)
    assert connector.poll(0.0) == [Dial(TWO, None, False)]
    assert connector.connections(0.0)[0].info == "cannot connect to ourself, retry: never"
    connector.set_own_endpoints(frozenset())  # the address moved elsewhere
    assert connector.poll(0.0) == [Dial(ONE, None, False)]


def test_a_name_is_looked_up_at_every_dial_and_all_its_addresses_are_used() -> None:
    connector = make("host2")
    target = parse_target("host2", 6783)
    assert connector.poll(0.0) == [Resolve(target)]
    assert connector.poll(0.0) == []
    assert connector.next_deadline() is None
    connector.resolved(target, [ONE, TWO], 0.1)
    assert connector.poll(0.1) == [Dial(ONE, None, False), Dial(TWO, None, False)]
    connector.dial_failed(ONE, "refused", 0.2)
    connector.dial_failed(TWO, "refused", 0.2)
    due = connector.next_deadline()
    assert due is not None
    assert connector.poll(due) == [Resolve(target)]
    three = Endpoint("192.0.2.3", 6783)
    connector.resolved(target, [three], due)  # the record changed
    assert connector.poll(due) == [Dial(three, None, False)]
    assert [row.address for row in connector.connections(due)] == [str(three)]


def test_a_name_that_does_not_resolve_is_retried() -> None:
    connector = make("nowhere.example")
    target = parse_target("nowhere.example", 6783)
    connector.poll(0.0)
    assert connector.connections(0.0) == [Connection("nowhere.example", True, "connecting", "")]
    connector.resolved(target, [], 0.0, error="name not known")
    assert connector.connections(0.0)[0].state == "retrying"
    assert connector.connections(0.0)[0].info.startswith("name not known, retry: in ")
    due = connector.next_deadline()
    assert due is not None
    assert due > 0.0
    assert connector.poll(due - 0.01) == []
    assert connector.poll(due) == [Resolve(target)]


def test_a_name_that_stops_resolving_does_not_spin() -> None:
    connector = make("host2")
    target = parse_target("host2", 6783)
    connector.poll(0.0)
    connector.resolved(target, [ONE], 0.0)
    connector.poll(0.0)
    connector.dial_failed(ONE, "refused", 0.0)
    now = 10.0
    assert connector.poll(now) == [Resolve(target)]
    connector.resolved(target, [], now, error="name not known")
    due = connector.next_deadline()
    assert due is not None
    assert due > now
    assert connector.poll(due) == [Resolve(target)]


def test_the_number_of_addresses_of_a_name_is_bounded() -> None:
    connector = make("host2")
    connector.poll(0.0)
    many = [Endpoint(f"198.51.100.{n}", 6783) for n in range(100)]
    connector.resolved(parse_target("host2", 6783), many, 0.0)
    assert len(connector.poll(0.0)) == min(MAX_RESOLVED, MAX_DIALS)


def test_dials_at_a_time_are_bounded() -> None:
    connector = make(*(f"198.51.100.{n}" for n in range(1, 100)))
    dials = connector.poll(0.0)
    assert len(dials) == MAX_DIALS
    assert connector.poll(0.0) == []
    assert connector.next_deadline() is None  # not before a report
    assert isinstance(dials[0], Dial)
    connector.dial_failed(dials[0].endpoint, "refused", 0.0)
    assert len(connector.poll(0.0)) == 1


def test_targets_are_bounded_and_nothing_half_done() -> None:
    connector = make("192.0.2.1")
    with pytest.raises(UserError, match="targets"):
        connector.connect([f"h{n}" for n in range(MAX_TARGETS)], 0.0)
    with pytest.raises(UserError, match="not a peer"):
        connector.connect(["good", "b a d"], 0.0)
    assert connector.targets == ("192.0.2.1",)


def test_connect_begins_again_at_once() -> None:
    connector = make("192.0.2.1")
    now = 0.0
    for _ in range(20):
        due = connector.next_deadline()
        assert due is not None
        now = max(now, due)
        connector.poll(now)
        connector.dial_failed(ONE, "refused", now)
    assert (connector.next_deadline() or 0.0) > now + 20
    connector.connect(["192.0.2.1"], now)
    assert connector.poll(now) == [Dial(ONE, None, False)]
    connector.dial_failed(ONE, "refused", now)
    assert (connector.next_deadline() or 1e9) <= now + 0.75


def test_forget_stops_dialling_and_leaves_links() -> None:
    connector = make("192.0.2.1", "192.0.2.2")
    connector.poll(0.0)
    up(connector, ONE, LOWER, 0.0)
    connector.dial_failed(TWO, "refused", 0.0)
    connector.forget(["192.0.2.1", "192.0.2.2"])
    assert connector.targets == ()
    assert [row.address for row in connector.connections(0.0)] == [str(ONE)]
    connector.link_down(LinkId(1), "closed by the other host", 1.0)
    assert connector.connections(1.0) == []
    assert connector.next_deadline() is None
    with pytest.raises(UserError, match="not a target"):
        connector.forget(["192.0.2.1"])


def test_connect_replace() -> None:
    connector = make("192.0.2.1", "192.0.2.2")
    connector.connect(["192.0.2.2", "host3"], 0.0, replace=True)
    assert connector.targets == ("192.0.2.2", "host3")


def test_discovered_hosts_one_address_at_a_time() -> None:
    connector = make()
    connector.want({HIGHER: [ONE, TWO]}, 0.0)
    assert connector.poll(0.0) == [Dial(ONE, HIGHER, False)]
    assert connector.poll(0.0) == []
    connector.dial_failed(ONE, "no route to host", 0.1)
    assert connector.poll(0.1) == [Dial(TWO, HIGHER, False)]
    up(connector, TWO, HIGHER, 0.2)
    assert connector.next_deadline() is None  # linked: the other address rests
    assert connector.connections(0.2) == [Connection(str(TWO), True, "pending", "", HIGHER)]


@pytest.mark.parametrize(("linked", "missing"), [(HIGHER, LOWER), (LOWER, HIGHER)])
def test_an_address_that_two_hosts_name_is_dialled_for_the_one_that_is_missing(linked: HostId, missing: HostId) -> None:
    """Two hosts behind one NAT are both seen at its address; and a member may name whatever it likes."""
    connector = make()
    up(connector, Endpoint("192.0.2.9", 40000), linked, 0.0, outbound=False)
    connector.want({LOWER: [ONE], HIGHER: [ONE]}, 1.0)
    assert connector.poll(2.0) == [Dial(ONE, missing, False)]


def test_the_lower_id_dials_first() -> None:
    connector = make()
    connector.want({LOWER: [ONE]}, 0.0)
    assert connector.poll(0.0) == []
    due = connector.next_deadline()
    assert due is not None
    assert 0.0 < due <= 0.5
    up(connector, Endpoint("192.0.2.1", 40000), LOWER, 0.1, outbound=False)
    assert connector.poll(10.0) == []


def test_remembered_hosts_are_dialled_until_the_first_link_is_up() -> None:
    connector = make()
    connector.remember({LOWER: (ONE,), HIGHER: (TWO,), ME: (Endpoint("192.0.2.9", 6783),)}, 0.0)
    assert connector.poll(0.0) == [Dial(ONE, LOWER, False), Dial(TWO, HIGHER, False)]
    connector.dial_failed(TWO, "connection refused", 0.1)
    assert [row.state for row in connector.connections(0.1)] == ["connecting", "retrying"]
    up(connector, ONE, LOWER, 0.2)
    connector.want({LOWER: (ONE,)}, 0.2)
    assert [row.host for row in connector.connections(0.2)] == [LOWER]
    assert connector.next_deadline() is None


def test_without_discovery_nobody_is_remembered() -> None:
    connector = make(discovery=False)
    connector.remember({LOWER: (ONE,)}, 0.0)
    assert connector.poll(0.0) == []


def test_no_discovery_dials_targets_only() -> None:
    connector = make("192.0.2.1", discovery=False)
    connector.want({HIGHER: [TWO]}, 0.0)
    assert connector.poll(0.0) == [Dial(ONE, None, False)]


def test_hosts_no_longer_wanted_are_forgotten() -> None:
    connector = make()
    connector.want({HIGHER: [ONE]}, 0.0)
    connector.want({HIGHER: [TWO], ME: [ONE]}, 0.0)
    assert connector.poll(0.0) == [Dial(TWO, HIGHER, False)]
    connector.want({}, 0.0)
    connector.dial_failed(TWO, "refused", 0.0)
    assert connector.next_deadline() is None


@pytest.mark.parametrize(
    ("host", "first_outbound", "gap", "closed"),
    [
        (HIGHER, True, 0.1, 2),  # we are lower: the one we dialled stays
        (HIGHER, False, 0.1, 1),
        (LOWER, True, 0.1, 1),
        (LOWER, False, 0.1, 2),
        (LOWER, True, 60.0, None),  # theirs is newer by far: they may have been restarted; only they may close it
        (LOWER, False, 60.0, 2),  # ours is newer: it is surplus
    ],
)
def test_two_links_of_one_pair(host: HostId, first_outbound: bool, gap: float, closed: int | None) -> None:
    connector = make("192.0.2.1")
    connector.poll(0.0)
    there = Endpoint("192.0.2.1", 40000)
    up(connector, ONE if first_outbound else there, host, 0.0, link=1, outbound=first_outbound)
    up(connector, there if first_outbound else ONE, host, gap, link=2, outbound=not first_outbound)
    assert connector.poll(gap) == ([] if closed is None else [Close(LinkId(closed))])
    if closed is not None:
        connector.link_down(LinkId(closed), "second link", gap)
        assert [row.host for row in connector.connections(gap)] == [host]
        assert connector.poll(gap + 100) == []  # one is enough


@pytest.mark.parametrize("host", [LOWER, HIGHER])
def test_two_links_that_one_side_dialled(host: HostId) -> None:
    dialler = make("192.0.2.1", "192.0.2.2")
    dialler.poll(0.0)
    up(dialler, ONE, host, 0.0, link=1)
    up(dialler, TWO, host, 0.1, link=2)
    assert dialler.poll(0.1) == [Close(LinkId(2))]
    acceptor = make()
    up(acceptor, ONE, host, 0.0, link=1, outbound=False)
    up(acceptor, TWO, host, 0.1, link=2, outbound=False)
    assert acceptor.poll(0.1) == []


def test_both_ends_of_a_pair_close_the_same_link() -> None:
    """Every order in which two simultaneous links may come up at the two ends."""
    for mine_first_here in (True, False):
        for mine_first_there in (True, False):
            kept = []
            for me, other, mine_first in ((LOWER, HIGHER, mine_first_here), (HIGHER, LOWER, mine_first_there)):
                connector = Connector(me=me, rng=Random(1))
                order = ("mine", "theirs") if mine_first else ("theirs", "mine")
                links = {"mine": LinkId(1), "theirs": LinkId(2)}
                for n, name in enumerate(order):
                    up(connector, ONE, other, n * 0.1, link=links[name], outbound=name == "mine")
                (close,) = connector.poll(1.0)
                assert isinstance(close, Close)
                left = "theirs" if close.link == links["mine"] else "mine"
                kept.append((me == LOWER) == (left == "mine"))  # True: the one that LOWER dialled
            assert kept == [True, True]


def test_strangers_in_their_handshake_are_not_listed() -> None:
    connector = make()
    connector.link_accepted(LinkId(1), ONE, 0.0)
    assert connector.connections(0.0) == []
    connector.link_down(LinkId(1), "garbage", 0.0)
    connector.link_down(LinkId(1), "twice", 0.0)
    assert connector.next_deadline() is None


def test_a_name_is_looked_up_anew_however_its_addresses_take_turns() -> None:
    """Two addresses of one host are dialled by turns: there is always one that waits, and the name is asked for all the same."""
    connector = make("host2")
    target = parse_target("host2", 6783)
    connector.poll(0.0)
    connector.resolved(target, [ONE, TWO], 0.0)
    connector.poll(0.0)
    up(connector, ONE, HIGHER, 0.0, link=1)
    up(connector, TWO, HIGHER, 0.0, link=2)
    assert connector.poll(0.0) == [Close(LinkId(2))]
    connector.link_down(LinkId(2), "second link", 0.0)
    connector.link_down(LinkId(1), "closed", 1.0)
    now, lookups = 1.0, 0
    for _ in range(10):
        now = max(now, connector.next_deadline() or now)
        for request in connector.poll(now):
            if isinstance(request, Resolve):
                lookups += 1
                connector.resolved(target, [ONE, TWO], now)
            elif isinstance(request, Dial):
                connector.dial_failed(request.endpoint, "refused", now)
    assert lookups >= 4


def test_a_lookup_of_long_ago_is_not_dialled_by() -> None:
    connector = make("host2")
    target = parse_target("host2", 6783)
    connector.poll(0.0)
    up(connector, ONE, HIGHER, 0.0, outbound=False)
    connector.want({HIGHER: [ONE]}, 0.0)
    connector.resolved(target, [ONE], 0.0)
    assert connector.poll(0.0) == []
    connector.want({}, 0.0)
    connector.link_down(LinkId(1), "closed", 1000.0)
    assert connector.poll(1000.0) == [Resolve(target)]
