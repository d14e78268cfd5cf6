"""Control links of a node under load and under strangers: what is bounded, what is refused, and that goodbyes are said."""

from __future__ import annotations

from meshd.drops import DropReason
from meshd.gossip.messages import Hello
from meshd.ids import Endpoint, LinkId
from meshd.node import CloseLink, DialLink, Node, Resolve, SendLink
from meshd.node.links import MAX_HALF_OPEN, MAX_STRANGERS, STRANGER_S
from tests.sim.meshes import Mesh, mesh_key


def alone() -> tuple[Mesh, Node]:
    mesh = Mesh(seed=9, hosts=1)
    mesh.start()
    return mesh, mesh.hosts[0].node


def poll(node: Node, now: float) -> list[object]:
    return list(node.poll_transmit(now, lambda link: 0))


def test_half_open_links_are_bounded_and_end_by_themselves() -> None:
    mesh, node = alone()
    now = mesh.clock_now
    links = [node.link_accepted(Endpoint("10.0.9.9", port), now) for port in range(1, MAX_HALF_OPEN + 6)]
    assert poll(node, now) == [CloseLink(link) for link in links[:5]]
    assert node.drops[DropReason.LINK_LIMIT] == 5
    held = links[5:]
    assert len(set(held)) == MAX_HALF_OPEN
    node.handle_timer(now + 6.0)  # nobody has said who they are
    closed = {output.link for output in poll(node, now + 6.0) if isinstance(output, CloseLink)}
    assert closed == set(held)
    assert node.link_accepted(Endpoint("10.0.9.9", 99), now + 6.0) not in links
    assert not poll(node, now + 6.0)


def test_one_source_that_holds_links_half_open_costs_the_others_none() -> None:
    """By /64 where it is IPv6: its addresses are as many as it likes."""
    mesh, node = alone()
    now = mesh.clock_now
    others = [node.link_accepted(Endpoint(f"10.0.8.{number}", 1), now) for number in range(MAX_HALF_OPEN // 2)]
    greedy = [node.link_accepted(Endpoint(f"fd00::{number:x}", 1), now) for number in range(1, MAX_HALF_OPEN)]
    others.append(node.link_accepted(Endpoint("fd00:0:0:1::1", 1), now))
    closed = [output.link for output in poll(node, now) if isinstance(output, CloseLink)]
    assert closed == greedy[: len(others) + len(greedy) - MAX_HALF_OPEN]


def test_where_all_sources_hold_one_link_the_oldest_gives_way() -> None:
    mesh, node = alone()
    now = mesh.clock_now
    links = [node.link_accepted(Endpoint(f"10.0.8.{number}", 1), now) for number in range(MAX_HALF_OPEN + 3)]
    assert poll(node, now) == [CloseLink(link) for link in links[:3]]


def test_garbage_ends_a_link_and_nothing_else() -> None:
    mesh, node = alone()
    now = mesh.clock_now
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 300, b"\xff" * 70_000, b"\x16\x03\x01\x02\x00"):
        link = node.link_accepted(Endpoint("10.0.9.9", 1), now)
        node.receive_link(link, garbage, now)
        node.handle_timer(now + 6.0)
        outputs = poll(node, now + 6.0)
        assert CloseLink(link) in outputs
        assert not any(isinstance(output, SendLink) for output in outputs)  # silence to strangers
        node.receive_link(link, b"after the end", now)
        node.link_lost(link, "closed by the other end", now)
    assert node.links.linked_hosts() == set()


def test_reports_about_links_that_never_were_change_nothing() -> None:
    mesh, node = alone()
    poll(node, mesh.clock_now)
    ghost = LinkId(4711)
    node.receive_link(ghost, b"x", mesh.clock_now)
    node.link_lost(ghost, "gone", mesh.clock_now)
    node.link_failed(ghost, "refused", mesh.clock_now)
    node.resolved("nobody", ("10.0.0.9",), "", mesh.clock_now)
    node.link_connected(ghost, mesh.clock_now)  # its dial was given up meanwhile: the stream is not wanted
    assert poll(node, mesh.clock_now) == [CloseLink(ghost)]


def test_a_dial_that_fails_shows_its_reason_and_is_tried_again() -> None:
    mesh, node = alone()
    now = mesh.clock_now
    node.connect(["192.0.2.8"], replace=False, now=now)
    (dial,) = [output for output in poll(node, now) if isinstance(output, DialLink)]
    assert dial.endpoint == Endpoint("192.0.2.8", 6783)
    node.link_failed(dial.link, "no route to host", now)
    (row,) = node.view(now).connections
    assert (row.address, row.state in ("failed", "retrying")) == ("192.0.2.8:6783", True)
    assert "no route to host" in row.info
    deadline = node.links.next_deadline()
    assert deadline is not None
    assert now < deadline < now + 60
    node.forget(["192.0.2.8", "never heard of"], now)
    assert (node.targets(), node.view(now).connections) == ((), ())


def test_a_name_is_looked_up_and_dialled() -> None:
    mesh, node = alone()
    now = mesh.clock_now
    node.connect(["host2:7000"], replace=False, now=now)
    (ask,) = [output for output in poll(node, now) if isinstance(output, Resolve)]
    assert ask == Resolve("host2:7000", "host2")
    node.resolved("host2:7000", ("192.0.2.9", "fd00::9"), "", now)
    dials = [output.endpoint for output in poll(node, now) if isinstance(output, DialLink)]
    assert set(dials) <= {Endpoint("192.0.2.9", 7000), Endpoint("fd00::9", 7000)}
    assert dials


def test_strangers_are_remembered_for_a_while_and_only_so_many() -> None:
    mesh = Mesh(seed=9, hosts=MAX_STRANGERS + 4, keys=mesh_key)
    mesh.start()
    mesh.run(3.0)
    node = mesh.hosts[0].node
    rows = node.links.strangers(mesh.clock_now)
    assert 0 < len(rows) <= MAX_STRANGERS
    assert all("another mesh key" in row.info for row in rows)
    assert node.links.strangers(mesh.clock_now + STRANGER_S) == []
    assert node.links.linked_hosts() == set()


def test_who_leaves_says_so_on_every_link() -> None:
    mesh = Mesh(seed=9, hosts=3)
    mesh.start()
    mesh.wait(mesh.meshed, 10.0)
    leaving = mesh.hosts[2]
    left = mesh.clock_now
    leaving.stop()
    mesh.wait(lambda: leaving.host_id not in mesh.hosts[0].node.reach.alive, 1.0)
    mesh.wait(lambda: leaving.host_id not in mesh.hosts[1].node.reach.alive, 1.0)
    assert mesh.clock_now - left < 1.0  # no grace for who said goodbye
    assert leaving.node.links.linked_hosts() == set()


def test_a_neighbour_says_once_for_each_link_where_it_sees_us() -> None:
    """Each other address would be a record of ours, signed here and told to everybody."""
    mesh = Mesh(seed=9, hosts=2)
    mesh.start()
    mesh.wait(mesh.meshed, 3.0)
    mesh.run(8.0)  # all is said
    one, two = mesh.hosts
    before = one.node.gossip.store.own.highest
    for number in range(1, 100):
        for held in two.node.links._links.values():
            held.control.send_message(Hello(f"198.51.100.{number}", ()))
        two.wake()
        mesh.run(0.1)
    assert one.node.gossip.store.own.highest == before
    assert mesh.meshed()
