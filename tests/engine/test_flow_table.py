"""Flows by MAC: what is found or voided is what a look at every flow would find, and no more is looked at than has that MAC."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.forward.engine.native import _core
from meshd.forward.engine.tables import MAX_FLOWS, Flow, FlowTable
from meshd.forward.slots import FIRST_PEER, LOCAL

Key = bytes | tuple[int, bytes]
Table = FlowTable[Key] | _core.FlowTable
tables = pytest.mark.parametrize("new", [FlowTable, _core.FlowTable], ids=["python", "native"])
STRANGERS = 64  # flows of other MACs that share a bucket: one on average, by a seeded hash; so many only with the flood's target


def mac(number: int) -> bytes:
    return b"\x02" + number.to_bytes(5, "big")


def counts(table: Table, address: bytes) -> tuple[int, int]:
    """How many flows a void forgot, and how many it looked at."""
    before = table.looked_at
    return table.void_mac(address), table.looked_at - before


def has(key: Key, address: bytes) -> bool:
    addresses = key if isinstance(key, bytes) else key[1]
    return address in (addresses[:6], addresses[6:])


keys = st.builds(
    lambda slot, destination, source: (
        (FIRST_PEER + slot, mac(destination) + mac(source)) if slot else mac(destination) + mac(source)
    ),
    st.integers(0, 2),
    st.integers(0, 5),
    st.integers(0, 5),
)
voids = st.one_of(st.integers(0, 6).map(mac), st.none())
steps = st.one_of(st.tuples(st.booleans(), keys), st.tuples(st.booleans(), keys), st.tuples(st.none(), voids))


@tables
@given(st.lists(steps, max_size=80), st.integers(1, 12))
def test_voiding_is_the_same_as_a_look_at_every_flow(
    new: Callable[[int], Table], story: list[tuple[bool | None, Key | None]], limit: int
) -> None:
    """A step adds a flow (True), uses one (False), or voids a MAC."""
    table, flow = new(limit), Flow(LOCAL, None)
    reference: OrderedDict[Key, None] = OrderedDict()
    for adds, operand in story:
        if adds is None or operand is None:
            address = operand if isinstance(operand, bytes) else None
            gone = [key for key in reference if address is None or has(key, address)]
            assert table.void_mac(address) == len(gone)
            for key in gone:
                del reference[key]
        elif adds:
            reference.pop(operand, None)
            if len(reference) >= limit:
                reference.popitem(last=False)
            reference[operand] = None
            table.add(operand, flow)
        elif operand in reference:
            reference.move_to_end(operand)
            table.use(operand)
        assert list(table.flows) == list(reference)
    for number in range(6):
        gone = [key for key in reference if has(key, mac(number))]
        assert table.of_mac(mac(number)) == dict.fromkeys(gone, flow)
        assert table.void_mac(mac(number)) == len(gone)
        for key in gone:
            del reference[key]
    assert len(table) == len(reference) == 0


@tables
def test_a_mac_costs_what_has_it_and_not_the_table(new: Callable[[int], Table]) -> None:
    """As in a flood of source MACs: as many flows as there may be, all to one destination."""
    table, flow = new(MAX_FLOWS), Flow(LOCAL, None)
    for number in range(1, MAX_FLOWS + 1000):
        table.add(mac(0) + mac(number), flow)
    assert len(table) == MAX_FLOWS
    for number in range(2000, 3000):
        assert list(table.of_mac(mac(number))) == [mac(0) + mac(number)]
    assert table.looked_at < 8 * 1000 + 10 * MAX_FLOWS
    gone, looked_at = zip(*(counts(table, mac(number)) for number in range(2000, 3000)), strict=True)
    assert set(gone) == {1}
    assert sum(count > STRANGERS for count in looked_at) < 10  # each in one of as many buckets, as the target is
    assert sum(count for count in looked_at if count <= STRANGERS) < 8 * 1000
    assert table.void_mac(mac(1)) == 0  # evicted
    assert table.void_mac(mac(1 << 30)) == 0  # never seen
    forgotten, seen = counts(table, mac(0))
    assert forgotten == MAX_FLOWS - 1000
    assert seen <= forgotten + STRANGERS
    assert len(table) == 0


@tables
def test_flows_that_were_voided_leave_nothing_behind(new: Callable[[int], Table]) -> None:
    """A MAC that comes and goes is looked for in an index that does not grow."""
    table, flow = new(8), Flow(LOCAL, None)
    for number in range(1, 2000):
        table.add(mac(number) + mac(number), flow)
        table.add(mac(number) + mac(0), flow)
        assert table.void_mac(mac(number)) == 2
    assert len(table) == 0
    assert table.looked_at <= 2000 * 4
    assert not getattr(table, "_by_mac", {})
