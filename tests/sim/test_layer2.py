"""Layer 2 over whole hosts: questions answered from records, and what must be flooded all the same."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from meshd.forward.neighbours import ARP, IPV6, Question, answer, icmpv6_packet
from meshd.ids import BROADCAST_MAC, Mac
from meshd.testing.host import SimContainer
from tests.sim.meshes import Mesh


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    mesh = Mesh(seed=5, hosts=3)
    mesh.start()
    mesh.wait(mesh.meshed, 5.0)
    mesh.assert_unicast()
    yield mesh
    mesh.assert_sane()


def send(mesh: Mesh, box: SimContainer, frame: bytes) -> list[list[bytes]]:
    """Put a frame on the box's bridge; what each box then gets."""
    before = [len(other.received) for other in mesh.boxes]
    assert box.host is not None
    box.host.from_container(box, frame)
    mesh.net.clock.run_for(0.5)
    return [other.received[count:] for other, count in zip(mesh.boxes, before, strict=True)]


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def request(asker: Mac, sender: str, target: str) -> bytes:
    head = BROADCAST_MAC + asker + ARP + bytes.fromhex("0001080006040001")
    return head + asker + packed(sender) + bytes(6) + packed(target)


def solicitation(asker: Mac, sender: str, target: str) -> bytes:
    last = packed(target)[13:]
    group = bytes.fromhex("ff0200000000000000000001ff") + last
    option = b"\1\1" + asker if any(packed(sender)) else b""
    body = icmpv6_packet(packed(sender), group, 135, bytes(4) + packed(target) + option)
    return b"\x33\x33\xff" + last + asker + IPV6 + body


def test_arp_for_a_known_address_is_answered_here(mesh: Mesh) -> None:
    one, two, _ = mesh.boxes
    got = send(mesh, one, request(one.mac, "10.1.0.1", "10.1.0.2"))
    expected = answer(Question(one.mac, packed("10.1.0.1"), packed("10.1.0.2")), two.mac)
    assert got == [[expected], [], []]
    assert mesh.hosts[0].node.layer2.answered == 1


def test_a_solicitation_for_a_known_address_is_answered_here(mesh: Mesh) -> None:
    one = mesh.boxes[0]
    six = mesh.hosts[1].attach("six", addresses=("fd00::6/64",))
    mesh.net.clock.run_for(1.0)
    got = send(mesh, one, solicitation(one.mac, "fd00::1", "fd00::6"))
    assert got == [[answer(Question(one.mac, packed("fd00::1"), packed("fd00::6")), six.mac)], [], []]


def test_what_others_must_see_is_flooded(mesh: Mesh) -> None:
    one = mesh.boxes[0]
    for frame in (
        request(one.mac, "10.1.0.1", "10.1.0.77"),  # nobody has it
        request(one.mac, "0.0.0.0", "10.1.0.2"),  # a probe: is it taken?
        request(one.mac, "10.1.0.1", "10.1.0.1"),  # gratuitous
        request(one.mac, "10.1.0.9", "10.1.0.1"),  # its own
        solicitation(one.mac, "::", "fd00::6"),  # duplicate address detection
        solicitation(one.mac, "fd00::1", "fd00::77"),
    ):
        assert send(mesh, one, frame) == [[], [frame], [frame]]
    assert mesh.hosts[0].node.layer2.answered == 0


def test_a_question_for_a_neighbour_on_the_same_host_stays_there(mesh: Mesh) -> None:
    one = mesh.boxes[0]
    beside = mesh.hosts[0].attach("beside", addresses=("10.1.0.50/24",))
    frame = request(one.mac, "10.1.0.1", "10.1.0.50")
    assert send(mesh, one, frame) == [[], [], []]
    assert beside.received == [frame]


def test_of_two_holders_the_lower_id_answers(mesh: Mesh) -> None:
    one = mesh.boxes[0]
    doubles = {
        host.host_id: host.attach("double", addresses=("10.1.0.66/24",)) for host in (mesh.hosts[1], mesh.hosts[2])
    }
    mesh.net.clock.run_for(1.0)
    question = Question(one.mac, packed("10.1.0.1"), packed("10.1.0.66"))
    got = send(mesh, one, request(one.mac, "10.1.0.1", "10.1.0.66"))
    assert got[0] == [answer(question, doubles[min(doubles)].mac)]


def test_the_answer_follows_the_container(mesh: Mesh) -> None:
    one, two, _ = mesh.boxes
    mesh.hosts[1].move(two, mesh.hosts[2])
    mesh.net.clock.run_for(1.0)
    got = send(mesh, one, request(one.mac, "10.1.0.1", "10.1.0.2"))
    assert got[0] == [answer(Question(one.mac, packed("10.1.0.1"), packed("10.1.0.2")), two.mac)]


def test_a_dead_host_answers_no_more(mesh: Mesh) -> None:
    one = mesh.boxes[0]
    mesh.hosts[1].kill()
    mesh.net.clock.run_for(20.0)
    frame = request(one.mac, "10.1.0.1", "10.1.0.2")
    assert send(mesh, one, frame) == [[], [], [frame]]
