"""Frames for several hosts: what the node reads, what members of a group get, and that no copy spoils another."""

from __future__ import annotations

import pytest
from scapy.layers.igmp import IGMP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_NS, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from meshd.forward.engine.asking import UPCALL_BURST
from meshd.forward.engine.interface import Inspected, Verdict
from meshd.forward.inspect import is_inspected
from meshd.forward.slots import FLOOD, GROUP
from tests.engine.reference import A_MAC, B_MAC, arp, capture, complete, cut, super_frame
from tests.engine.test_floods import Triangle

GROUP_MAC = "01:00:5e:01:02:03"


def datagram(payload: bytes = b"to a group", group: str = GROUP_MAC, tag: int | None = None) -> Packet:
    head = Ether(src=A_MAC, dst=group) if tag is None else Ether(src=A_MAC, dst=group) / Dot1Q(vlan=tag)
    return head / IP(src="10.2.0.1", dst="239.1.2.3") / UDP(sport=4000, dport=5001) / Raw(payload)


@pytest.fixture
def mesh() -> Triangle:
    mesh = Triangle()
    mesh.sides[0].upcalls.outbound = Verdict(GROUP)
    mesh.tree(0, {0: [1, 2]})
    return mesh


def members(mesh: Triangle, *hosts: int) -> None:
    slots = [mesh.slots[0][host] for host in hosts]
    mesh.sides[0].upcalls.members[bytes.fromhex(GROUP_MAC.replace(":", ""))] = slots
    mesh.sides[0].engine.void_groups()


def test_only_members_get_it_and_nobody_passes_it_on(mesh: Triangle) -> None:
    members(mesh, 2)
    frame = capture(datagram())
    mesh.sides[0].send(frame, frame)
    assert mesh.settle() == [[], [], [frame, frame]]
    assert len(mesh.sides[0].upcalls.asked_members) == 1
    assert mesh.sides[2].upcalls.asked_inbound == [
        (mesh.slots[2][0], bytes.fromhex(A_MAC.replace(":", "")), bytes.fromhex(GROUP_MAC.replace(":", "")))
    ]


def test_changed_members(mesh: Triangle) -> None:
    members(mesh, 2)
    frame = capture(datagram())
    mesh.sides[0].send(frame)
    members(mesh, 1)
    mesh.sides[0].send(frame)
    assert mesh.settle() == [[], [frame], [frame]]


def test_a_group_without_members_is_counted(mesh: Triangle) -> None:
    members(mesh)
    mesh.sides[0].send(capture(datagram()))
    assert mesh.settle() == [[], [], []]
    assert mesh.sides[0].drops == {"no_members": 1}


def test_many_members_share_the_tree(mesh: Triangle) -> None:
    frame = capture(datagram())
    mesh.sides[0].send(frame)  # the script answers None
    assert mesh.settle() == [[], [frame], [frame]]


def test_a_super_frame_is_cut_for_each_member(mesh: Triangle) -> None:
    """Cutting writes over the frame, so each member's copy is cut by itself."""
    members(mesh, 1, 2)
    frame = datagram(bytes(range(250)))
    mesh.sides[0].send(super_frame(frame, 100))
    whole = cut(frame, 100)
    _, one, other = mesh.settle()
    for got in (one, other):
        assert [piece for written in got for piece in complete(written)] == whole


def test_what_is_tagged_is_flooded(mesh: Triangle) -> None:
    members(mesh)
    frame = capture(datagram(tag=7))
    mesh.sides[0].send(frame)
    assert mesh.settle() == [[], [frame], [frame]]


# ── what the node reads


def solicitation() -> Packet:
    return Ether(src=A_MAC, dst="33:33:ff:00:00:01") / IPv6(dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt="fd00::1")


INSPECTED = {
    "ARP": arp(),
    "a neighbour solicitation": solicitation(),
    "IGMP": Ether(src=A_MAC, dst=GROUP_MAC) / IP(dst="239.1.2.3") / IGMP(type=0x16, gaddr="239.1.2.3"),
    "MLD": Ether(src=A_MAC, dst="33:33:00:00:00:16") / IPv6(dst="ff02::16") / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(),
    "PIM": Ether(src=A_MAC, dst="01:00:5e:00:00:0d") / IP(dst="224.0.0.13", proto=103),
    "a loop probe": Ether(src=A_MAC, dst="03:00:00:00:00:01", type=0x88B6) / Raw(b"x" * 40),
}
NOT_INSPECTED = {
    "a datagram to a group": datagram(),
    "ARP to one": Ether(src=A_MAC, dst=B_MAC) / ARP(),
    "tagged ARP": Ether(src=A_MAC, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=3) / ARP(),
    "mDNS over IPv6": Ether(src=A_MAC, dst="33:33:00:00:00:fb") / IPv6(dst="ff02::fb") / UDP(),
}


@pytest.mark.parametrize("name", INSPECTED)
def test_the_node_reads(mesh: Triangle, name: str) -> None:
    mesh.sides[0].upcalls.outbound = Verdict(FLOOD)
    frame = capture(INSPECTED[name])
    mesh.sides[0].send(frame)
    assert mesh.sides[0].upcalls.asked_inspect == [frame[10:]]
    assert mesh.settle() == [[], [frame], [frame]]


@pytest.mark.parametrize("name", NOT_INSPECTED)
def test_the_node_is_not_asked(mesh: Triangle, name: str) -> None:
    mesh.sides[0].send(capture(NOT_INSPECTED[name]))
    assert mesh.sides[0].upcalls.asked_inspect == []


@pytest.mark.parametrize("size", range(14, 60))
def test_short_frames_are_looked_at_safely(size: int) -> None:
    for packet in INSPECTED.values():
        is_inspected(memoryview(bytes(packet))[:size])


def test_an_answer_goes_back_and_nothing_leaves(mesh: Triangle) -> None:
    side = mesh.sides[0]
    side.upcalls.inspected = Inspected(forward=False, reply=b"an answer that is long enough")
    side.send(capture(arp()))
    assert mesh.settle() == [[bytes(10) + b"an answer that is long enough"], [], []]
    assert side.drops == {}


def test_a_frame_that_only_some_hosts_get(mesh: Triangle) -> None:
    frame = capture(INSPECTED["IGMP"])
    mesh.sides[0].upcalls.inspected = Inspected(forward=False, peers=(mesh.slots[0][2],))
    mesh.sides[0].send(frame)
    assert mesh.settle() == [[], [], [frame]]


def test_one_that_asks_too_much_meets_its_limit_alone(mesh: Triangle) -> None:
    side = mesh.sides[0]
    side.upcalls.outbound = Verdict(FLOOD)
    side.send(*[capture(arp())] * 2 * int(UPCALL_BURST))
    assert side.drops["upcall_overload"] == UPCALL_BURST + 1  # one was for the flow
    assert len(side.upcalls.asked_inspect) == UPCALL_BURST - 1


def test_a_frame_of_the_nodes_own(mesh: Triangle) -> None:
    side = mesh.sides[0]
    assert side.engine.send_frame(b"a frame of the node's own")
    assert side.frames.take() == [bytes(10) + b"a frame of the node's own"]
    side.frames.up = False
    assert not side.engine.send_frame(b"a frame of the node's own")
    assert side.drops == {"tap_down": 1}
