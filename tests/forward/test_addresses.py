"""The address table: who answers, what is a conflict, what `attach` is told."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.drops import DropReason
from meshd.errors import LocalProtocolError
from meshd.forward import addresses as addresses_module
from meshd.forward.addresses import Address, AddressKey, AddressTable, Holder
from meshd.ids import HostId, Mac, SegmentId

A, B, C = (HostId(bytes([n]) * 16) for n in (0xA, 0xB, 0xC))
SEG = SegmentId(0)
IP = IPv4Address("10.32.0.7")
IP6 = IPv6Address("fd00::7")
KEY = AddressKey(SEG, IP.packed)
MAC, OTHER = Mac(b"\x02\0\0\0\0\1"), Mac(b"\x02\0\0\0\0\2")


@pytest.fixture
def table() -> AddressTable:
    addresses = AddressTable(A)
    addresses.set_reachable([B, C])
    return addresses


def test_one_holder(table: AddressTable) -> None:
    assert table.set_holder(B, SEG, IP, "web", MAC, 24)
    assert table.holder(SEG, IP) == table.holder(SEG, IP.packed) == Holder(B, "web", MAC, 24)
    assert table.holder(SegmentId(1), IP) is None
    assert table.holder(SEG, IP6) is None
    assert table.conflicts() == []
    assert not table.set_holder(B, SEG, IP, "web", MAC, 24)
    assert table.set_holder(B, SEG, IP, "web", OTHER, 24)  # same container, new MAC: the answer changed
    assert table.drop_holder(B, SEG, IP)
    assert (len(table), table.holder(SEG, IP)) == (0, None)
    assert not table.drop_holder(B, SEG, IP)


def test_ipv6(table: AddressTable) -> None:
    assert table.set_holder(B, SEG, IP6, "web", MAC, 64)
    assert table.views() == [(AddressKey(SEG, IP6.packed), Holder(B, "web", MAC, 64))]
    assert table.views()[0][0].address == IP6


def test_double_claim_lower_id_answers_both_are_shown(table: AddressTable) -> None:
    table.set_holder(C, SEG, IP, "web", MAC, 24)
    assert table.set_holder(B, SEG, IP, "db", OTHER, 16)
    assert not table.set_holder(C, SEG, IP, "web", MAC, 16)
    (conflict,) = table.conflicts()
    assert (conflict.segment, conflict.address) == (SEG, IP)
    assert conflict.holders == (Holder(B, "db", OTHER, 16), Holder(C, "web", MAC, 16)) == table.holders(SEG, IP)
    assert table.drop_host(B) == [KEY]
    assert table.holder(SEG, IP) == Holder(C, "web", MAC, 16)
    assert table.conflicts() == []


def test_two_containers_of_one_host(table: AddressTable) -> None:
    table.set_holder(A, SEG, IP, "web", MAC, 24)
    assert table.set_holder(A, SEG, IP, "db", OTHER, 24)
    assert [holder.label for holder in table.holders(SEG, IP)] == ["db", "web"]
    assert table.drop_holder(A, SEG, IP, "db")
    assert not table.drop_holder(A, SEG, IP, "no such")
    assert table.holder(SEG, IP) == Holder(A, "web", MAC, 24)
    assert table.drop_host(A) == [KEY]


def test_taken_names_the_other(table: AddressTable) -> None:
    assert table.taken(SEG, IP, A, "web") is None
    table.set_holder(A, SEG, IP, "web", MAC, 24)
    assert table.taken(SEG, IP, A, "web") is None  # attaching again is no conflict
    assert table.taken(SEG, IP, A, "db") == Holder(A, "web", MAC, 24)
    table.set_holder(B, SEG, IP, "x", OTHER, 24)
    assert table.taken(SEG, IP, A, "web") == Holder(B, "x", OTHER, 24)
    table.set_reachable([C])
    assert table.taken(SEG, IP, A, "web") is None  # what a dead host had may be used


def test_hiding(table: AddressTable) -> None:
    table.set_holder(B, SEG, IP, "web", MAC, 24)
    table.set_holder(C, SEG, IP, "web", MAC, 24)
    assert table.set_reachable([C]) == [KEY]
    assert table.conflicts() == []
    assert table.set_reachable([]) == [KEY]
    assert (table.holder(SEG, IP), table.views(), len(table)) == (None, [], 1)
    assert table.set_reachable([B, C]) == [KEY]
    assert table.set_reachable([B]) == []
    assert table.holder(SEG, IP) == Holder(B, "web", MAC, 24)


@pytest.mark.parametrize(("address", "prefix"), [(b"", 0), (b"\0" * 5, 8), (IP, 33), (IP, -1), (IP6, 129)])
def test_what_is_no_address(table: AddressTable, address: Address, prefix: int) -> None:
    with pytest.raises(LocalProtocolError):
        table.set_holder(B, SEG, address, "web", MAC, prefix)
    assert len(table) == 0


def test_full_of_others_it_still_takes_our_own(table: AddressTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses_module, "MAX_ADDRESSES", 2)
    results = [table.set_holder(B, SEG, IP + n, "web", MAC, 24) for n in range(4)]
    assert results == [True, True, False, False]
    assert table.drops[DropReason.TABLE_FULL] == 2
    assert len(table) == 2
    assert table.set_holder(B, SEG, IP, "web", OTHER, 24)  # known: replaced
    assert table.set_holder(A, SEG, IP + 3, "web", MAC, 24)
    table.drop_holder(B, SEG, IP)
    assert table.set_holder(C, SEG, IP + 2, "web", MAC, 24)


class Change(NamedTuple):
    host: HostId
    address: IPv4Address
    label: str
    mac: Mac | None  # None: dropped


CHANGES = st.builds(
    Change,
    st.sampled_from([A, B, C]),
    st.integers(0, 1).map(lambda n: IP + n),
    st.sampled_from(["x", "y"]),
    st.sampled_from([None, MAC, OTHER]),
)


@given(st.lists(st.one_of(CHANGES, st.frozensets(st.sampled_from([A, B, C]))), max_size=40))
def test_against_an_oracle(changes: list[Change | frozenset[HostId]]) -> None:
    table = AddressTable(A)
    claims: dict[tuple[IPv4Address, HostId, str], Mac] = {}
    reachable: frozenset[HostId] = frozenset({A})

    def answers() -> dict[IPv4Address, Holder]:
        visible = sorted(
            (ip, Holder(host, label, m, 24)) for (ip, host, label), m in claims.items() if host in reachable
        )
        return dict(reversed(visible))  # the first of each address stays

    for change in changes:
        before = answers()
        if not isinstance(change, Change):
            reachable = change | {A}
            reported = {key.address for key in table.set_reachable(change)}
        else:
            host, address, label, mac = change
            if mac is None:
                claims.pop((address, host, label), None)
                changed = table.drop_holder(host, SEG, address, label)
            else:
                claims[address, host, label] = mac
                changed = table.set_holder(host, SEG, address, label, mac, 24)
            reported = {address} if changed else set()
        after = answers()
        assert reported == {ip for ip in before.keys() | after.keys() if before.get(ip) != after.get(ip)}
        assert {key.address: holder for key, holder in table.views()} == after
        assert len(table) == len({ip for ip, _, _ in claims})
