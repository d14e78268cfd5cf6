"""What a host says of itself: at once in its own tables, and in records that every other host takes."""

from __future__ import annotations

import pytest

from meshd.crypto.meshkey import MeshKey
from meshd.errors import UserError
from meshd.forward.claims import ClaimKind
from meshd.forward.fdb import LEARNED_AGE
from meshd.gossip.values import (
    HOST_KEY,
    LINKS_KEY,
    MAX_ENDPOINTS,
    AttachmentValue,
    HostValue,
    LearnedValue,
    LinksValue,
    Value,
    attachment_key,
    decode_value,
    learned_key,
)
from meshd.ids import Endpoint, HostId, Mac, SegmentId, short_id
from meshd.node import Node
from meshd.node.edges import USUAL_EDGES
from meshd.node.own import MAX_OBSERVED
from meshd.testing.host import SimHost
from meshd.testing.network import SimNetwork

ZERO = SegmentId(0)
MAC, OTHER = Mac(b"\x02\0\0\0\0\1"), Mac(b"\x02\0\0\0\0\2")
FAR = HostId(b"far away host 16")


@pytest.fixture
def node() -> Node:
    net = SimNetwork(seed=1)
    host = SimHost(net, "a", "10.0.0.1", MeshKey.generate(net.rng.randbytes))
    host.start()
    host.node.directory.fdb.set_reachable({FAR})
    return host.node


def said(node: Node, key: bytes) -> Value | None:
    """As any other host reads it."""
    value = node.gossip.get(key)
    return None if value is None else decode_value(key, value)


def endpoints(node: Node) -> list[str]:
    value = said(node, HOST_KEY)
    assert isinstance(value, HostValue)
    return [str(endpoint) for endpoint in value.endpoints]


# ── who we are


def test_what_is_advertised_comes_first_and_link_local_sights_are_not_told() -> None:
    net = SimNetwork(seed=1)
    host = SimHost(net, "a", "10.0.0.1", MeshKey.generate(net.rng.randbytes), advertise=(Endpoint("192.0.2.1", 7000),))
    host.start()
    host.node.own.seen_at(FAR, "fe80::1%eth0", host.now)
    host.node.own.seen_at(FAR, "10.0.0.9", host.now)
    assert endpoints(host.node) == ["192.0.2.1:7000", "10.0.0.9:6783", "10.0.0.1:6783"]


def test_the_host_record(node: Node) -> None:
    value = said(node, HOST_KEY)
    assert isinstance(value, HostValue)
    assert (value.nickname, value.name, value.port) == ("a", node.config.name, 6783)
    assert endpoints(node) == ["10.0.0.1:6783"]


def test_where_others_see_us_comes_first_and_the_last_few_only(node: Node) -> None:
    neighbours = [HostId(bytes([number]) * 16) for number in range(30)]
    for number, neighbour in enumerate(neighbours):
        node.own.seen_at(neighbour, f"203.0.113.{number}", 1.0)
    assert endpoints(node) == [f"203.0.113.{number}:6783" for number in range(30 - MAX_OBSERVED, 30)] + [
        "10.0.0.1:6783"
    ]
    assert len(node.own._observed) == 4 * MAX_OBSERVED
    node.own.seen_at(neighbours[-1], "10.0.0.1", 2.0)  # no twice the same
    assert endpoints(node)[-1] == "10.0.0.1:6783"
    assert len(endpoints(node)) == len(set(endpoints(node))) == MAX_OBSERVED
    assert MAX_OBSERVED < MAX_ENDPOINTS


def test_what_most_neighbours_see_pushes_out_nothing_else(node: Node) -> None:
    """A host behind a NAT for IPv4, that most neighbours reach over IPv6."""
    node.own.seen_at(FAR, "203.0.113.1", 1.0)
    for number in range(2 * MAX_OBSERVED):
        node.own.seen_at(HostId(bytes([number]) * 16), "2001:db8::1", 2.0)
    assert endpoints(node) == ["203.0.113.1:6783", "[2001:db8::1]:6783", "10.0.0.1:6783"]


def test_what_is_no_news_is_not_said_again(node: Node) -> None:
    node.own.seen_at(FAR, "203.0.113.1", 1.0)
    before = node.gossip.store.own.epoch, node.gossip.get(HOST_KEY)
    for _ in range(3):
        node.own.seen_at(FAR, "203.0.113.1", 2.0)
        node.own.seen_at(FAR, "", 2.0)
    assert (node.gossip.store.own.epoch, node.gossip.get(HOST_KEY)) == before


def test_the_links_record_takes_the_cheapest(node: Node) -> None:
    alive = {HostId(bytes([number]) * 16): number % 4 for number in range(20)}
    node.own.publish_links(alive, 1.0)
    value = said(node, LINKS_KEY)
    assert isinstance(value, LinksValue)
    assert len(value.neighbours) == USUAL_EDGES == 14
    assert sorted(cost for _, cost in value.neighbours) == [0] * 5 + [1] * 5 + [2] * 4
    assert list(value.neighbours) == sorted(value.neighbours)
    node.own.publish_links({FAR: 0}, 2.0)
    assert said(node, LINKS_KEY) == LinksValue(neighbours=((short_id(FAR), 0),))


# ── attachments


def test_an_attachment_is_known_before_anything_is_sent(node: Node) -> None:
    assert set(node.own.attach("box", "web", MAC, ("10.1.0.1/24",), 1.0)) == {MAC}
    assert node.directory.fdb.lookup(ZERO, MAC) == node.host_id
    assert node.directory.address_holder("10.1.0.1/24", "other") == "container web on this host"
    assert node.directory.address_holder("10.1.0.1/24", "box") is None
    value = said(node, attachment_key("box"))
    assert isinstance(value, AttachmentValue)
    assert (value.label, value.macs, value.addresses, value.claim) == ("web", (MAC,), ("10.1.0.1/24",), 1)
    assert set(node.own.detach("box", 2.0)) == {MAC}
    assert node.own.detach("box", 2.0) == ()
    assert said(node, attachment_key("box")) is None
    assert (len(node.directory.fdb), node.directory.attachments) == (0, {})


def test_a_claim_beats_what_others_claimed_before(node: Node) -> None:
    node.directory.fdb.set_claim(FAR, ZERO, MAC, 7, ClaimKind.ATTACHMENT, "elsewhere", 0.0)
    node.own.attach("box", "web", MAC, (), 1.0)
    assert node.directory.fdb.lookup(ZERO, MAC) == node.host_id
    value = said(node, attachment_key("box"))
    assert isinstance(value, AttachmentValue)
    assert value.claim == 8


def test_a_new_mac_voids_the_flows_of_both(node: Node) -> None:
    node.own.attach("box", "web", MAC, (), 1.0)
    assert set(node.own.attach("box", "web", OTHER, (), 2.0)) == {MAC, OTHER}
    assert node.directory.fdb.lookup(ZERO, MAC) is None


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("web", "web"),
        ("x" * 100, "x" * 64),
        ("ü" * 40, "ü" * 32),
        ("a" + "ü" * 40, "a" + "ü" * 31),
        ("a\x1b[2Jb", "a?[2Jb"),
    ],
)
def test_any_name_becomes_a_label_that_others_take(node: Node, label: str, shown: str) -> None:
    node.own.attach("box", label, MAC, (), 1.0)
    value = said(node, attachment_key("box"))
    assert isinstance(value, AttachmentValue)
    assert value.label == shown


@pytest.mark.parametrize(
    ("attachment_id", "addresses"),
    [
        ("netns:" + "x" * 200, ()),
        ("netns:bell\x07", ()),
        ("box", tuple(f"10.1.{number}.1/24" for number in range(65))),
        ("box", ("no address",)),
    ],
)
def test_what_others_would_not_take_is_refused_and_changes_nothing(
    node: Node, attachment_id: str, addresses: tuple[str, ...]
) -> None:
    node.own.captured(ZERO, MAC, 1.0)
    with pytest.raises(UserError, match="cannot be announced"):
        node.own.attach(attachment_id, "web", MAC, addresses, 2.0)
    assert node.own.attachments == {}
    assert said(node, learned_key(MAC)) is not None  # what was known of the MAC still is


# ── what is seen


def test_a_new_mac_is_claimed_once(node: Node) -> None:
    assert node.own.captured(ZERO, MAC, 1.0) == (MAC,)
    assert node.own.captured(ZERO, MAC, 2.0) == ()
    assert said(node, learned_key(MAC)) == LearnedValue(mac=MAC, segment=ZERO, claim=1)
    assert node.directory.fdb.lookup(ZERO, MAC) == node.host_id


def test_a_mac_that_moved_here_is_claimed_higher(node: Node) -> None:
    node.directory.fdb.set_claim(FAR, ZERO, MAC, 7, ClaimKind.LEARNED, "", 0.0)
    assert node.own.captured(ZERO, MAC, 1.0) == (MAC,)
    assert said(node, learned_key(MAC)) == LearnedValue(mac=MAC, segment=ZERO, claim=8)


def test_an_attached_mac_that_is_seen_raises_its_attachment(node: Node) -> None:
    node.own.attach("box", "web", MAC, ("10.1.0.1/24",), 1.0)
    node.directory.fdb.set_claim(FAR, ZERO, MAC, 7, ClaimKind.ATTACHMENT, "twin", 2.0)
    assert node.directory.fdb.lookup(ZERO, MAC) == FAR
    assert set(node.own.captured(ZERO, MAC, 3.0)) == {MAC}
    assert node.directory.fdb.lookup(ZERO, MAC) == node.host_id
    value = said(node, attachment_key("box"))
    assert isinstance(value, AttachmentValue)
    assert (value.claim, value.addresses) == (8, ("10.1.0.1/24",))
    assert said(node, learned_key(MAC)) is None


def test_a_learned_mac_that_is_attached_is_learned_no_more(node: Node) -> None:
    node.own.captured(ZERO, MAC, 1.0)
    node.own.attach("box", "web", MAC, (), 2.0)
    assert said(node, learned_key(MAC)) is None
    (view,) = node.directory.fdb.views()
    assert (view.kind, view.owner, view.label) == (ClaimKind.ATTACHMENT, node.host_id, "box")
    node.own.detach("box", 3.0)
    assert node.directory.fdb.lookup(ZERO, MAC) is None


def test_what_is_not_seen_for_long_is_withdrawn(node: Node) -> None:
    node.own.captured(ZERO, MAC, 1.0)
    node.own.attach("box", "web", OTHER, (), 1.0)
    assert list(node.own.expire_learned(1.0 + LEARNED_AGE - 0.1)) == []
    assert list(node.own.expire_learned(1.1 + LEARNED_AGE)) == [MAC]
    assert said(node, learned_key(MAC)) is None
    assert said(node, attachment_key("box")) is not None
