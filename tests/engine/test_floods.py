"""Floods: along trees, once, and never back; and the flood window by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import Suite
from meshd.forward.engine.interface import Verdict
from meshd.forward.entries import FloodHeader, encode_flood
from meshd.forward.floods import FLOOD_WINDOW, FloodTable
from meshd.forward.slots import FLOOD, LOCAL
from meshd.ids import ShortId, SlotId
from meshd.testing.devices import MemoryNetwork
from tests.engine.pair import PEER, Pair, Side
from tests.engine.reference import arp, capture, complete, cut, super_frame, tcp, udp, unfinished
from tests.engine.test_datagrams import arrive, sealed

ARP = capture(arp())
SUITE = Suite.AES_256_GCM


class Triangle:
    """Three hosts, each with sessions to the other two; `slots[x][y]` is x's slot for y."""

    def __init__(self) -> None:
        network = MemoryNetwork()
        self.sides = [Side(network, number) for number in (1, 2, 3)]
        # each host's slots for the others, in the order of the hosts
        self.slots = [[SlotId(PEER + other - (other > mine)) for other in range(3)] for mine in range(3)]
        for mine, side in enumerate(self.sides):
            side.upcalls.outbound = Verdict(FLOOD)
            for other, target in enumerate(self.sides):
                if other == mine:
                    continue
                key = bytes([mine * 3 + other]) * 32
                back = self.slots[other][mine]
                index = 0x1000 * (mine + 1) + other
                side.engine.set_path(self.slots[mine][other], target.endpoint, 1472)
                side.engine.set_send_key(self.slots[mine][other], SUITE, key, index)
                target.engine.add_receive_key(index, back, SUITE, key)

    def tree(self, origin: int, children: dict[int, list[int]]) -> None:
        for mine, side in enumerate(self.sides):
            side.upcalls.children[self.sides[origin].origin] = [self.slots[mine][it] for it in children.get(mine, [])]

    def settle(self) -> list[list[bytes]]:
        """Deliver until nothing moves; what each bridge got."""
        got: list[list[bytes]] = [[], [], []]
        for _ in range(20):
            for mine, side in enumerate(self.sides):
                got[mine] += side.receive()
        return got


def test_a_flood_goes_down_the_chain_once() -> None:
    mesh = Triangle()
    mesh.tree(0, {0: [1], 1: [2]})
    mesh.sides[0].send(ARP)
    assert mesh.settle() == [[], [ARP], [ARP]]
    assert [side.drops for side in mesh.sides] == [{}, {}, {}]


def test_a_tree_with_a_loop_delivers_once_and_counts() -> None:
    mesh = Triangle()
    mesh.tree(0, {0: [1, 2], 1: [2, 0], 2: [1, 0]})
    mesh.sides[0].send(ARP)
    assert mesh.settle() == [[], [ARP], [ARP]]
    # Nobody sends back to where a copy came from; so each gets the other's copy.
    assert [side.drops for side in mesh.sides] == [{}, {"flood_duplicate": 1}, {"flood_duplicate": 1}]


def test_ones_own_flood_coming_back_is_a_duplicate() -> None:
    mesh = Triangle()
    mesh.tree(0, {0: [1], 1: [2], 2: [0]})
    mesh.sides[0].send(ARP)
    assert mesh.settle() == [[], [ARP], [ARP]]
    assert mesh.sides[0].drops == {"flood_duplicate": 1}


def test_children_are_asked_once_until_the_trees_are_void() -> None:
    mesh = Triangle()
    mesh.tree(0, {0: [1]})
    mesh.sides[0].send(ARP, ARP)
    mesh.settle()
    assert mesh.sides[0].upcalls.asked_children == mesh.sides[1].upcalls.asked_children == [mesh.sides[0].origin]
    mesh.tree(0, {0: [2]})
    for side in mesh.sides:
        side.engine.void_trees()
    mesh.sides[0].send(ARP)
    assert mesh.settle() == [[], [], [ARP]]


def test_an_unknown_origin_is_dropped_and_asked_again() -> None:
    mesh = Triangle()
    mesh.sides[0].upcalls.children[mesh.sides[0].origin] = [mesh.slots[0][1]]
    mesh.sides[0].send(ARP, ARP)
    assert mesh.settle() == [[], [], []]
    assert mesh.sides[1].drops == {"flood_unknown_origin": 2}
    assert len(mesh.sides[1].upcalls.asked_children) == 2


def test_a_super_frame_is_flooded_in_segments_that_stay_vouched() -> None:
    mesh = Triangle()
    mesh.tree(0, {0: [1], 1: [2]})
    packet = tcp(bytes(5000))
    mesh.sides[0].send(super_frame(packet, 1332), unfinished(udp(b"x")))
    _, second, third = mesh.settle()
    expected = [*cut(packet, 1332), bytes(udp(b"x"))]
    assert [frame for data in second for frame in complete(data)] == expected
    assert [frame for data in third for frame in complete(data)] == expected


def test_a_host_alone_floods_to_nobody() -> None:
    mesh = Triangle()
    mesh.tree(0, {})
    mesh.sides[0].send(ARP, super_frame(tcp(bytes(5000)), 1332))
    assert mesh.settle() == [[], [], []]
    assert mesh.sides[0].drops == {}


def test_a_frame_for_another_host_is_redirected_once() -> None:
    mesh = Triangle()
    for side in mesh.sides:
        for origin in mesh.sides:
            side.upcalls.children[origin.origin] = []
    a, b, c = mesh.sides
    a.upcalls.outbound = Verdict(mesh.slots[0][1])
    b.upcalls.inbound = Verdict(mesh.slots[1][2])
    c.upcalls.inbound = Verdict(mesh.slots[2][0])  # would be asked for a frame, is not for a flood
    c.upcalls.children[b.origin] = [mesh.slots[2][0]]
    a.send(ARP)
    assert mesh.settle() == [[], [], [ARP]]
    assert c.upcalls.asked_inbound == []
    assert [side.drops for side in mesh.sides] == [{}, {}, {}]


ORIGIN = ShortId(b"\x09" * 8)


def flood(sequence: int, boot: int = 1, ttl: int = 5, frame: bytes = ARP[10:], origin: ShortId = ORIGIN) -> bytes:
    return sealed(sequence, encode_flood(FloodHeader(origin, boot, sequence, ttl), frame))


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (flood(5, ttl=0), "flood_ttl"),
        (flood(5, frame=b"\x01\x80\xc2\x00\x00\x0e" + bytes(30)), "link_local_control"),
        (flood(5, origin=ShortId(b"\x02" * 8)), "flood_duplicate"),  # b's own
    ],
)
def test_floods_that_are_refused(datagram: bytes, reason: str) -> None:
    pair = Pair()
    pair.b.upcalls.children[ORIGIN] = []
    assert arrive(pair, datagram) == []
    assert pair.b.drops == {reason: 1}


def test_the_last_hop_is_delivered_and_not_passed_on() -> None:
    pair = Pair()
    pair.b.upcalls.children[ORIGIN] = [SlotId(PEER + 1)]
    assert arrive(pair, flood(5, ttl=1)) == [ARP]
    assert pair.b.upcalls.wanted == []
    assert arrive(pair, flood(6, ttl=2)) == [ARP]
    assert pair.b.upcalls.wanted == [PEER + 1]


def test_a_peer_that_invents_origins_meets_the_upcall_limit() -> None:
    pair = Pair()
    pair.b.upcalls.inbound = Verdict(LOCAL)
    for number in range(300):
        arrive(pair, flood(number, origin=ShortId(number.to_bytes(8, "big"))))
    assert pair.b.drops == {"flood_unknown_origin": 200, "upcall_overload": 100}


def test_a_window_accepts_each_sequence_once_and_nothing_behind_it() -> None:
    table = FloodTable()
    assert table.accept(ORIGIN, 1, 5000)
    assert table.accept(ORIGIN, 1, 5000 - FLOOD_WINDOW + 1)
    assert not table.accept(ORIGIN, 1, 5000 - FLOOD_WINDOW)
    assert not table.accept(ORIGIN, 1, 5000 - FLOOD_WINDOW + 1)
    assert table.accept(ORIGIN, 1, 100_000)
    assert not table.accept(ORIGIN, 1, 5001)


def test_sequences_go_round() -> None:
    """Twelve days of a video to all, at 4000 frames a second; and the origin's ARP is counted with it."""
    table, last = FloodTable(), 2**32 - 1
    for sequence in (last - 1, 0, last, 1, FLOOD_WINDOW - 2):
        assert table.accept(ORIGIN, 1, sequence)
        assert not table.accept(ORIGIN, 1, sequence)
    assert not table.accept(ORIGIN, 1, last - 1)
    assert table.accept(ORIGIN, 1, FLOOD_WINDOW + 5)
    assert not table.accept(ORIGIN, 1, 2)


def test_a_host_that_learns_of_a_later_life_of_its_own_floods_under_a_higher_boot() -> None:
    triangle = Triangle()
    triangle.tree(0, {0: [1]})
    one = triangle.sides[0]
    for boot, heard in ((7, 1), (4, 0), (8, 1)):
        one.engine.raise_boot(boot)
        one.send(ARP)
        assert [len(got) for got in triangle.settle()] == [0, heard, 0]


def test_a_newer_boot_starts_anew_and_an_older_one_is_stale() -> None:
    table = FloodTable()
    assert table.accept(ORIGIN, 2, 9)
    assert not table.accept(ORIGIN, 1, 10)
    assert table.accept(ORIGIN, 3, 9)
    assert not table.accept(ORIGIN, 2, 11)


def test_the_table_forgets_who_was_silent_for_longest() -> None:
    table = FloodTable(limit=2)
    first, second, third = (ShortId(bytes([number]) * 8) for number in range(3))
    assert table.accept(first, 1, 1)
    assert table.accept(second, 1, 1)
    assert not table.accept(first, 1, 1)
    assert table.accept(third, 1, 1)
    assert len(table) == 2
    assert not table.accept(first, 1, 1)
    assert table.accept(second, 1, 1)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3000))))
def test_the_window_against_a_set(floods: list[tuple[int, int]]) -> None:
    """Oracle: everything ever seen under the newest boot."""
    table, newest, seen = FloodTable(), 0, set[int]()
    for boot, sequence in floods:
        if boot > newest:
            newest, seen = boot, set()
        fresh = boot == newest and sequence not in seen and sequence > max(seen, default=-1) - FLOOD_WINDOW
        assert table.accept(ORIGIN, boot, sequence) is fresh
        if fresh:
            seen.add(sequence)
