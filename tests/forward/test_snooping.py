"""Members come by reports and go by leaves and by silence; what is not known is wanted."""

from __future__ import annotations

import ipaddress

from meshd.forward.groups import EVERYTHING, MAX_MEMBERS, GroupTable, Wanted, group_mac
from meshd.forward.membership import Heard, query4, query6
from meshd.forward.snooping import (
    LEAVE_TIME,
    MAX_GROUPS,
    MEMBER_TIME,
    QUERY_INTERVAL,
    ROUTER_TIME,
    SETTLE_TIME,
    Snooper,
)
from meshd.ids import HostId, parse_mac

MAC = parse_mac("02:6e:00:00:00:01")
ONE, SIX = (ipaddress.ip_address(text).packed for text in ("239.1.2.3", "ff05::1:6"))
LINK = ipaddress.ip_address("224.0.0.251").packed
GENERAL = [query4(MAC, 2.0, 30.0), query6(MAC, 2.0, 30.0)]


def settled(now: float = 0.0) -> Snooper:
    snooper = Snooper(MAC, now)
    snooper.set_somebody(True, now)
    for when in (0.0, 2.5, SETTLE_TIME):
        snooper.handle_timer(now + when)
    return snooper


def only(*groups: bytes) -> Wanted:
    return Wanted(groups=frozenset(groups))


def test_everything_until_it_has_settled() -> None:
    snooper = Snooper(MAC, 100.0)
    snooper.set_somebody(True, 100.0)
    assert snooper.wanted(100.0) == EVERYTHING
    assert snooper.next_deadline() == 100.0
    assert snooper.handle_timer(100.0) == GENERAL
    assert snooper.next_deadline() == 102.5
    assert snooper.handle_timer(102.5) == GENERAL
    assert snooper.next_deadline() == 105.0
    assert snooper.handle_timer(105.0) == []
    assert snooper.wanted(105.0) == only()
    assert snooper.next_deadline() == 102.5 + QUERY_INTERVAL


def test_nobody_is_asked_while_nobody_is_there() -> None:
    snooper = Snooper(MAC, 0.0)
    asked = [snooper.handle_timer(float(now)) for now in range(100)]
    assert asked == [[]] * 100
    snooper.set_somebody(True, 100.0)
    assert snooper.handle_timer(100.0) == GENERAL


def test_a_member_that_answers_stays_and_a_silent_one_goes() -> None:
    snooper = settled()
    snooper.heard(Heard(joined=(ONE, SIX, LINK)), 10.0)
    assert snooper.wanted(10.0) == only(ONE, SIX)
    snooper.heard(Heard(joined=(ONE,)), 40.0)
    snooper.handle_timer(10.0 + MEMBER_TIME)
    assert snooper.wanted(80.0) == only(ONE)
    snooper.handle_timer(40.0 + MEMBER_TIME)
    assert snooper.wanted(200.0) == only()


def test_after_a_leave_the_others_are_asked() -> None:
    snooper = settled()
    snooper.heard(Heard(joined=(ONE, SIX)), 10.0)
    snooper.heard(Heard(left=(ONE, SIX)), 11.0)
    assert snooper.next_deadline() == 11.0
    assert snooper.handle_timer(11.0) == [query4(MAC, 1.0, 30.0, ONE), query6(MAC, 1.0, 30.0, SIX)]
    snooper.heard(Heard(left=(ONE,)), 11.5)  # asked already
    assert snooper.handle_timer(11.5) == []
    snooper.heard(Heard(joined=(SIX,)), 12.0)  # another container has it still
    snooper.handle_timer(11.0 + LEAVE_TIME)
    assert snooper.wanted(14.0) == only(SIX)
    snooper.heard(Heard(left=(ONE,)), 15.0)  # nobody's
    assert snooper.next_deadline() > 16.0


def test_too_many_groups_are_everything_for_a_while() -> None:
    snooper = settled()
    groups = [bytes([239, 7, number >> 8, number & 255]) for number in range(MAX_GROUPS + 1)]
    snooper.heard(Heard(joined=tuple(groups[:MAX_GROUPS])), 10.0)
    assert not snooper.wanted(10.0).everything
    snooper.heard(Heard(joined=tuple(groups)), 11.0)
    assert snooper.wanted(11.0).everything
    assert len(snooper.wanted(11.0).groups) == MAX_GROUPS
    snooper.handle_timer(12.0 + MEMBER_TIME)
    assert snooper.wanted(12.0 + MEMBER_TIME) == only()


def test_a_multicast_router_gets_everything() -> None:
    snooper = settled()
    snooper.heard(Heard(router=True), 10.0)
    assert snooper.wanted(10.0).everything
    assert snooper.next_deadline() <= 10.0 + ROUTER_TIME
    snooper.handle_timer(10.0 + ROUTER_TIME)
    assert not snooper.wanted(10.0 + ROUTER_TIME).everything


def test_plugging_in_often_does_not_ask_without_end() -> None:
    snooper = settled()
    for number in range(100):
        snooper.ask_soon(10.0 + number / 1000)
    asked = [snooper.handle_timer(10.2 + number / 10) for number in range(40)]
    assert sum(map(len, asked)) <= 8


# ── the table of all hosts

HOSTS = [HostId(bytes([number]) * 16) for number in range(1, MAX_MEMBERS + 4)]
GROUP = group_mac(ONE)


def test_members_are_those_who_joined_and_those_who_want_everything() -> None:
    table = GroupTable()
    assert table.set_reachable(HOSTS[:4])
    assert not table.set_reachable(HOSTS[:4])
    assert table.members(GROUP) is None, "nobody has said anything: flood"
    for host in HOSTS[:3]:
        assert table.set_wanted(host, only())
    assert table.members(GROUP) == [HOSTS[3]]
    table.set_wanted(HOSTS[3], only(SIX))
    assert table.members(GROUP) == []
    table.set_wanted(HOSTS[0], only(ONE, bytes([239, 129, 2, 3])))  # two groups, one MAC
    assert table.members(GROUP) == [HOSTS[0]]
    assert not table.set_wanted(HOSTS[0], only(ONE, bytes([239, 129, 2, 3])))
    table.set_wanted(HOSTS[1], EVERYTHING)
    assert table.hungry() == {HOSTS[1]}
    assert table.members(GROUP) == HOSTS[:2]
    table.set_reachable(HOSTS[1:4])
    assert table.members(GROUP) == [HOSTS[1]]
    table.set_wanted(HOSTS[1], None)
    assert table.hungry() == {HOSTS[1]}
    table.set_wanted(HOSTS[0], None)
    assert not table._by_mac.get(GROUP)


def test_many_members_are_flooded_to() -> None:
    table = GroupTable()
    table.set_reachable(HOSTS)
    for host in HOSTS:
        table.set_wanted(host, only(ONE))
    table.set_wanted(HOSTS[0], only())
    assert table.members(GROUP) is None
    table.set_wanted(HOSTS[1], only())
    table.set_wanted(HOSTS[2], only())
    assert table.members(GROUP) == HOSTS[3:]
