"""Layer 2 over whole hosts: questions answered from records, and what must be flooded all the same."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from meshd.drops import DropReason
from meshd.forward.checksum import ones_sum
from meshd.forward.groups import group_mac
from meshd.forward.membership import query4
from meshd.forward.neighbours import ARP, IPV6, Question, answer, icmpv6_packet
from meshd.forward.snooping import LEAVE_TIME, MEMBER_TIME, QUERY_INTERVAL, QUERY_RESPONSE, SETTLE_TIME
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


# ── groups


def report(asker: Mac, group: str, kind: int = 4) -> bytes:
    """IGMPv3: 4 joins, 3 with no source leaves."""
    record = bytes([kind, 0, 0, 0]) + packed(group)
    message = bytes([0x22, 0, 0, 0, 0, 0, 0, 1]) + record
    checksum = 65535 - ones_sum(message)
    message = message[:2] + checksum.to_bytes(2, "big") + message[4:]
    head = bytes([0x45, 0xC0, 0, 20 + len(message), 0, 0, 0, 0, 1, 2, 0, 0]) + packed("10.1.0.9") + packed("224.0.0.22")
    return group_mac(packed("224.0.0.22")) + asker + b"\x08\x00" + head + message


def to_group(sender: Mac, group: str, payload: bytes = b"to all of you") -> bytes:
    head = bytes([0x45, 0, 0, 20 + len(payload), 0, 0, 0, 0, 1, 253, 0, 0]) + packed("10.1.0.1") + packed(group)
    return group_mac(packed(group)) + sender + b"\x08\x00" + head + payload


@pytest.fixture
def settled(mesh: Mesh) -> Mesh:
    """All hosts have asked their containers and said what they want."""
    mesh.net.clock.run_for(SETTLE_TIME + 1.0)
    return mesh


def test_a_group_goes_to_members_only_and_nobody_need_join_to_send(settled: Mesh) -> None:
    one, two, _ = settled.boxes
    frame = to_group(one.mac, "239.1.2.3")
    assert send(settled, one, frame) == [[], [], []]
    assert settled.drops(settled.hosts[0])[DropReason.NO_MEMBERS] == 1
    assert send(settled, two, report(two.mac, "239.1.2.3")) == [[], [], []], "its report stays on its host"
    assert send(settled, one, frame) == [[], [frame], []]
    assert send(settled, two, report(two.mac, "239.1.2.3", kind=3)) == [[], [], []]
    settled.net.clock.run_for(LEAVE_TIME + 1.0)
    assert send(settled, one, frame) == [[], [], []]


def test_a_member_that_is_silent_is_forgotten(settled: Mesh) -> None:
    one, two, _ = settled.boxes
    send(settled, two, report(two.mac, "239.1.2.3"))
    settled.net.clock.run_for(QUERY_INTERVAL)
    assert query4(settled.hosts[1].node.layer2.mac, QUERY_RESPONSE, QUERY_INTERVAL) in two.questions
    settled.net.clock.run_for(MEMBER_TIME)
    assert send(settled, one, to_group(one.mac, "239.1.2.3")) == [[], [], []]


@pytest.mark.parametrize("group", ["224.0.0.251", "ff02::fb", "ff02::1"])
def test_what_all_must_hear_needs_no_member(settled: Mesh, group: str) -> None:
    one = settled.boxes[0]
    frame = group_mac(packed(group)) + to_group(one.mac, "224.0.0.251")[6:]
    assert send(settled, one, frame) == [[], [frame], [frame]]


def test_before_a_host_has_settled_it_gets_everything(mesh: Mesh) -> None:
    one = mesh.boxes[0]
    frame = to_group(one.mac, "239.1.2.3")
    assert send(mesh, one, frame) == [[], [frame], [frame]]


def test_a_multicast_router_hears_groups_and_reports(settled: Mesh) -> None:
    one, two, three = settled.boxes
    pim = group_mac(packed("224.0.0.13")) + three.mac + b"\x08\x00"
    pim += bytes([0x45, 0, 0, 24, 0, 0, 0, 0, 1, 103, 0, 0]) + packed("10.1.0.3") + packed("224.0.0.13") + bytes(4)
    assert send(settled, three, pim) == [[pim], [pim], []]
    frame = to_group(one.mac, "239.1.2.3")
    assert send(settled, one, frame) == [[], [], [frame]]
    joins = report(two.mac, "239.1.2.3")
    assert send(settled, two, joins) == [[], [], [joins]]
    assert send(settled, one, frame) == [[], [frame], [frame]]


def test_a_host_that_starts_again_gets_everything_until_it_knows(settled: Mesh) -> None:
    one = settled.boxes[0]
    frame = to_group(one.mac, "239.1.2.3")
    settled.hosts[1].kill()
    settled.hosts[1].start()
    settled.wait(settled.meshed, 5.0)
    assert send(settled, one, frame) == [[], [frame], []]
    settled.net.clock.run_for(SETTLE_TIME)
    assert send(settled, one, frame) == [[], [], []]


def test_five_hosts_a_group_of_two_and_the_dead_get_nothing() -> None:
    mesh = Mesh(seed=6, hosts=5)
    mesh.start()
    mesh.wait(mesh.meshed, 5.0)
    mesh.net.clock.run_for(SETTLE_TIME + 1.0)
    one, two, three, *_ = mesh.boxes
    for box in (two, three):
        send(mesh, box, report(box.mac, "239.9.9.9"))
    frame = to_group(one.mac, "239.9.9.9")
    assert send(mesh, one, frame) == [[], [frame], [frame], [], []]
    mesh.hosts[1].kill()
    mesh.net.clock.run_for(20.0)
    assert send(mesh, one, frame) == [[], [], [frame], [], []]
