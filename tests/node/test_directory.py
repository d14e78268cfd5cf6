"""The tables that follow from the records: equal to them after any change, whatever a member writes."""

from __future__ import annotations

import random

import pytest

from meshd.drops import DropCounters, DropReason
from meshd.gossip.store import Changed
from meshd.gossip.values import (
    HOST_KEY,
    LINKS_KEY,
    AttachmentValue,
    HostValue,
    LearnedValue,
    LinksValue,
    Value,
    attachment_key,
    decode_value,
    encode_value,
    learned_key,
)
from meshd.ids import HostId, Mac, SegmentId, short_id
from meshd.node.directory import Applied, Directory

ME, A, B = (HostId(bytes([number]) * 16) for number in (1, 2, 3))
MAC, OTHER = Mac(b"\x02\0\0\0\0\1"), Mac(b"\x02\0\0\0\0\2")
ZERO, ONE = SegmentId(0), SegmentId(1)


def key_of(value: Value) -> bytes:
    match value:
        case HostValue():
            return HOST_KEY
        case LinksValue():
            return LINKS_KEY
        case AttachmentValue():
            return attachment_key(value.container_id)
        case LearnedValue():
            return learned_key(value.mac)
    raise AssertionError(value)


def host(static: bytes = b"s" * 32, nickname: str = "host") -> HostValue:
    return HostValue(
        nickname=nickname,
        name=Mac(b"\x0a" * 6),
        ed25519=b"e" * 32,
        x25519=static,
        endpoints=(),
        port=6783,
        capabilities=0,
        version="1",
        protocol_min=1,
        protocol_max=1,
        mtu=1372,
    )


def attached(
    *macs: Mac, addresses: tuple[str, ...] = (), claim: int = 1, segment: SegmentId = ZERO, name: str = "box"
) -> AttachmentValue:
    return AttachmentValue(
        container_id=name, label=name, macs=macs, addresses=addresses, names=(), segment=segment, claim=claim
    )


class Bench:
    """A directory, and the records as they are."""

    def __init__(self) -> None:
        self.drops = DropCounters()
        self.directory = Directory(ME, self.drops)
        self.reachable(A, B)
        self.now = 0.0
        self.records: dict[tuple[HostId, bytes], bytes] = {}

    def reachable(self, *hosts: HostId) -> None:
        self.directory.fdb.set_reachable(hosts)
        self.directory.addresses.set_reachable(hosts)

    def put(self, origin: HostId, value: Value) -> Applied:
        return self.put_raw(origin, key_of(value), encode_value(value))

    def delete(self, origin: HostId, value: Value) -> Applied:
        return self.put_raw(origin, key_of(value), None)

    def put_raw(self, origin: HostId, key: bytes, new: bytes | None) -> Applied:
        old = self.records.pop((origin, key), None)
        if new is not None:
            self.records[origin, key] = new
        self.now += 1.0
        return self.directory.apply(Changed(origin, key, old, new), self.now)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# ── hosts


def test_a_host_is_known_by_id_and_by_key(bench: Bench) -> None:
    assert bench.put(A, host(b"a" * 32)) == Applied(host=A, topology=True)
    directory = bench.directory
    assert directory.host_of_static(b"a" * 32) == A
    assert directory.identity_of_static(b"a" * 32) == b"e" * 32
    assert directory.host_of_short(short_id(A)) == A
    assert directory.label_of(A) == "0a:0a:0a:0a:0a:0a(host)"
    assert bench.put(A, host(b"n" * 32, "renamed")) == Applied(host=A)  # a new key: the old one means nothing any more
    assert (directory.host_of_static(b"a" * 32), directory.host_of_static(b"n" * 32)) == (None, A)
    assert bench.delete(A, host()) == Applied(host=A, topology=True)
    assert directory.host_of_static(b"n" * 32) is directory.identity_of_static(b"n" * 32) is None
    assert directory.host_of_short(short_id(A)) is None
    assert directory.label_of(A) == "02:02:02:02:02:02"
    assert (directory.hosts, directory._by_static) == ({}, {})


def test_a_key_that_two_hosts_name_is_nobodys(bench: Bench) -> None:
    """A member copies the victim's public key into its own record: sessions must not be led to it."""
    bench.put(A, host(b"a" * 32))
    bench.put(B, host(b"a" * 32))
    assert bench.directory.host_of_static(b"a" * 32) is None
    assert bench.directory.identity_of_static(b"a" * 32) is None
    bench.put(B, host(b"b" * 32))
    assert bench.directory.host_of_static(b"a" * 32) == A
    bench.put(B, host(b"a" * 32))
    bench.delete(B, host())
    assert bench.directory.host_of_static(b"a" * 32) == A


# ── claims


def test_an_attachment_comes_and_goes(bench: Bench) -> None:
    box = attached(MAC, addresses=("10.1.0.1/24", "fd00::1/64"))
    assert bench.put(A, box) == Applied(owners=(MAC,))
    directory = bench.directory
    assert directory.fdb.lookup(ZERO, MAC) == A
    assert directory.address_holder("10.1.0.1/16", "mine") == "container box on 02:02:02:02:02:02"
    assert directory.attachment_label(A, "box") == "box"
    assert bench.delete(A, box) == Applied(owners=(MAC,))
    assert (len(directory.fdb), len(directory.addresses), directory.attachments) == (0, 0, {})
    assert directory.address_holder("10.1.0.1/24", "mine") is None
    assert directory.attachment_label(A, "0123456789abcdef") == "0123456789ab"


def test_a_mac_that_stays_never_counts_as_a_move(bench: Bench) -> None:
    bench.put(B, LearnedValue(mac=MAC, segment=ZERO, claim=1))
    bench.put(A, attached(MAC, claim=5))
    for number in range(30):
        addresses = tuple(f"10.1.{number}.{last}/24" for last in (1, 2))
        changed = bench.put(A, attached(MAC, OTHER, addresses=addresses, claim=6 + number))
        assert MAC not in changed.owners
        assert bench.directory.fdb.lookup(ZERO, MAC) == A
    assert len(bench.directory.addresses) == 2
    assert bench.directory.fdb.next_event() is None
    assert not any(view.frozen for view in bench.directory.fdb.views())


def test_what_an_attachment_no_longer_has_is_dropped(bench: Bench) -> None:
    bench.put(A, attached(MAC, OTHER, addresses=("10.1.0.1/24", "10.1.0.2/24")))
    changed = bench.put(A, attached(OTHER, addresses=("10.1.0.2/16",), claim=2))
    assert changed.owners == (MAC,)
    assert [view.mac for view in bench.directory.fdb.views()] == [OTHER]
    ((key, holder),) = bench.directory.addresses.views()
    assert (str(key.address), holder.prefix_len) == ("10.1.0.2", 16)


def test_attachments_of_one_host_with_the_same_mac_are_kept_apart(bench: Bench) -> None:
    one, two = attached(MAC, name="one"), attached(MAC, name="two", claim=2)
    bench.put(A, one)
    assert bench.put(A, two).owners == ()
    assert bench.delete(A, one).owners == ()
    assert bench.directory.fdb.lookup(ZERO, MAC) == A
    assert bench.delete(A, two).owners == (MAC,)


def test_learned_and_attached_claims_of_one_mac(bench: Bench) -> None:
    learned = LearnedValue(mac=MAC, segment=ZERO, claim=3)
    assert bench.put(B, learned) == Applied(owners=(MAC,))
    assert bench.put(A, attached(MAC, claim=1)) == Applied(owners=(MAC,))
    assert bench.directory.fdb.lookup(ZERO, MAC) == A
    assert bench.delete(B, learned) == Applied()
    assert bench.put(B, LearnedValue(mac=MAC, segment=ZERO, claim=5)) == Applied()
    assert bench.directory.fdb.lookup(ZERO, MAC) == A
    assert bench.delete(A, attached(MAC, claim=1)).owners == (MAC,)
    assert bench.directory.fdb.lookup(ZERO, MAC) == B
    assert bench.put_raw(B, learned_key(MAC), None).owners == (MAC,)


def test_a_mac_that_its_owner_attaches_or_detaches_is_news(bench: Bench) -> None:
    """Another host drops frames with this source from then on, or no longer; these verdicts are cached."""
    bench.put(B, LearnedValue(mac=MAC, segment=ZERO, claim=3))
    assert bench.put(B, attached(MAC, claim=1)) == Applied(owners=(MAC,))
    assert bench.delete(B, attached(MAC, claim=1)).owners == (MAC,)
    assert bench.directory.fdb.lookup(ZERO, MAC) == B


def test_a_record_that_changes_its_segment_leaves_nothing_behind(bench: Bench) -> None:
    """Else a member could fill the tables of all with one record."""
    for number in range(20):
        segment = SegmentId(number)
        bench.put(A, attached(MAC, addresses=("10.1.0.1/24",), segment=segment, claim=number))
        bench.put(B, LearnedValue(mac=OTHER, segment=segment, claim=number))
        assert bench.directory.fdb.lookup(segment, MAC) == A
        assert bench.directory.fdb.lookup(segment, OTHER) == B
        assert (len(bench.directory.fdb), len(bench.directory.addresses)) == (2, 1)


def test_each_record_is_decoded_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again when it is replaced: records come by the thousand a second."""
    decoded: list[bytes] = []

    def counted(key: bytes, value: bytes) -> Value:
        decoded.append(value)
        return decode_value(key, value)

    monkeypatch.setattr("meshd.node.directory.decode_value", counted)
    for number in range(50):
        bench.put(A, attached(MAC, addresses=(f"10.1.0.{number}/24",), claim=number))
        bench.put(ME, attached(OTHER, claim=number))
    assert len(decoded) == 50
    assert [str(key.address) for key, _ in bench.directory.addresses.views()] == ["10.1.0.49"]
    bench.delete(A, attached(MAC))
    assert len(decoded) == 50
    assert bench.directory._claimed == {}


def test_own_claims_do_not_pass_here(bench: Bench) -> None:
    """They were set when they were made, perhaps anew since this record was signed."""
    assert bench.put(ME, attached(MAC)) == Applied()
    assert bench.put(ME, LearnedValue(mac=MAC, segment=ZERO, claim=1)) == Applied()
    assert len(bench.directory.fdb) == 0
    assert bench.put(ME, host()) == Applied(host=ME, topology=True)


# ── links


def test_an_edge_needs_both_ends(bench: Bench) -> None:
    def links(*hosts: HostId) -> LinksValue:
        return LinksValue(neighbours=tuple((short_id(other), 0) for other in hosts))

    for origin in (A, B):
        bench.put(origin, host(origin * 2))
    assert not bench.put(ME, links(A)).topology
    assert bench.put(A, links(ME, B)).topology
    assert not bench.put(A, links(ME, B)).topology
    assert bench.put(B, links(A)).topology
    assert bench.directory.flood_children(short_id(ME)) == [A]
    assert bench.directory.flood_children(short_id(B)) == []
    assert bench.directory.flood_children(short_id(HostId(b"?" * 16))) is None
    assert bench.delete(A, links()).topology
    assert bench.directory.flood_children(short_id(ME)) == []


# ── what a member may write


@pytest.mark.parametrize(
    "key", [HOST_KEY, LINKS_KEY, attachment_key("box"), learned_key(MAC), b"l-and-more", b"m", b"a"]
)
def test_values_that_do_not_decode_are_counted_and_mean_nothing(bench: Bench, key: bytes) -> None:
    assert bench.put_raw(A, key, b"\xc1 rubbish") == Applied()
    assert bench.drops[DropReason.BAD_RECORD] == 1
    assert bench.put_raw(A, key, None) == Applied()
    assert bench.drops[DropReason.BAD_RECORD] == 1  # its going is no second one


def test_a_good_value_that_is_replaced_by_rubbish_is_gone(bench: Bench) -> None:
    links = LinksValue(neighbours=((short_id(ME), 0),))
    for value in (
        host(),
        links,
        attached(MAC, addresses=("10.1.0.1/24",)),
        LearnedValue(mac=OTHER, segment=ZERO, claim=1),
    ):
        bench.put(A, value)
        bench.put_raw(A, key_of(value), b"\xc1")
    directory = bench.directory
    assert (directory.hosts, directory.attachments) == ({}, {})
    assert (len(directory.fdb), len(directory.addresses)) == (0, 0)


def test_kinds_of_a_later_version_are_passed_over(bench: Bench) -> None:
    assert bench.put_raw(A, b"z-future", b"anything") == Applied()
    assert bench.drops[DropReason.BAD_RECORD] == 0


def test_the_tables_equal_the_records_after_any_changes() -> None:
    """The same as a directory that only ever saw the last records, in another order."""
    rng = random.Random(7)
    bench = Bench()
    for _ in range(600):
        origin = rng.choice((A, B))
        value: Value
        if rng.random() < 0.5:
            value = attached(
                *rng.sample((MAC, OTHER), rng.randrange(3)),
                addresses=tuple(f"10.1.0.{rng.randrange(4)}/{rng.choice((16, 24))}" for _ in range(rng.randrange(3))),
                claim=rng.randrange(4),
                segment=rng.choice((ZERO, ONE)),
                name=rng.choice(("one", "two")),
            )
        else:
            value = LearnedValue(mac=rng.choice((MAC, OTHER)), segment=rng.choice((ZERO, ONE)), claim=rng.randrange(4))
        if rng.random() < 0.3:
            bench.delete(origin, value)
        else:
            bench.put(origin, value)
        fresh = Bench()
        for (source, key), data in sorted(bench.records.items(), reverse=rng.random() < 0.5):
            fresh.put_raw(source, key, data)
        for segment in (ZERO, ONE):
            for mac in (MAC, OTHER):
                assert bench.directory.fdb.lookup(segment, mac) == fresh.directory.fdb.lookup(segment, mac)
        assert sorted(bench.directory.addresses.views()) == sorted(fresh.directory.addresses.views())
        assert len(bench.directory.fdb) == len(fresh.directory.fdb)
