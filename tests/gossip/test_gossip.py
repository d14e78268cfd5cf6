"""Spreading between real Gossip objects: convergence, loss, partition, restart, floors, quotas of time and signatures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random

import pytest

from meshd.drops import DropReason
from meshd.gossip.gossip import (
    ANSWER_BURST,
    ANSWER_RATE,
    DIGEST_BURST,
    LINK_BACKLOG,
    ROOT_BURST,
    ROOT_RATE,
    Gossip,
)
from meshd.gossip.inbox import MAX_INBOX
from meshd.gossip.messages import DigestMessage, Hello, Records, Root, Want, WantRow
from meshd.gossip.records import Batch, Record, record_size, sign_record
from meshd.gossip.store import Digest
from meshd.ids import HostId, LinkId, ShortId, short_id

from .mesh import MESH_ID, CountingVerifier, Mesh, fake_signer, make_gossip, public_of

NAMES = ("a", "b", "c", "d", "e", "f")


def churn(mesh: Mesh, rng: Random, steps: int) -> None:
    for _ in range(steps):
        host = mesh.hosts[rng.choice(sorted(mesh.hosts))]
        key = b"k%d" % rng.randrange(12)
        if rng.random() < 0.6:
            host.put(key, b"v%d" % rng.randrange(1000), mesh.now)
        else:
            host.delete(key, mesh.now)


def test_two_hosts_tell_each_other_at_once() -> None:
    mesh = Mesh("ab")
    mesh.hosts["a"].put(b"h", b"host a", 0.0)
    mesh.hosts["b"].put(b"h", b"host b", 0.0)
    mesh.link("a", "b")
    mesh.settle()
    mesh.check()
    assert mesh.hosts["b"].store.value(mesh.hosts["a"].store.me, b"h") == b"host a"


def test_a_link_begins_with_hello_and_one_end_asks_to_compare() -> None:
    one, other = sorted((make_gossip("a"), make_gossip("b")), key=lambda host: host.store.me)
    for host, peer in ((one, other), (other, one)):
        host.put(b"h", b"a host", 0.0)
        host.link_up(LinkId(1), peer.store.me, 0.0, observed="192.0.2.7")
    (link, hello), (_, root) = one.poll(0.0)
    assert link == 1
    assert isinstance(hello, Hello)
    assert hello.observed == "192.0.2.7"
    assert [record.key for record in hello.batches[0].records] == [b"h"]
    assert isinstance(root, Root)
    ((_, hello),) = other.poll(0.0)
    assert isinstance(hello, Hello)


def test_a_joining_host_is_sent_everything_once() -> None:
    mesh = Mesh("ab")
    for n in range(40):
        name = f"host {n}"
        public = public_of(name)
        origin = Batch(public, 1, 0, True, None, ()).origin
        records = [Record(origin, 1, seq, b"k%d" % seq, bytes(100), b"") for seq in range(1, 21)]
        signed = tuple(sign_record(MESH_ID, record, fake_signer(public)) for record in records)
        mesh.hosts["a"].store.merge(Batch(public, 1, 0, True, None, signed))
    mesh.link("a", "b")
    mesh.settle()
    mesh.check()
    assert mesh.hosts["b"].store.drops[DropReason.STALE_RECORD] == 0
    assert mesh.messages < 15


def test_a_change_crosses_a_line_of_hosts_without_a_timer() -> None:
    mesh = Mesh(NAMES)
    for one, other in itertools.pairwise(NAMES):
        mesh.link(one, other)
    mesh.settle()
    mesh.hosts["a"].put(b"k", b"v", mesh.now)
    mesh.settle()
    mesh.check()
    assert mesh.live("f") == {(mesh.hosts["a"].store.me, b"k"): b"v"}


def test_an_idle_mesh_says_only_roots() -> None:
    mesh = Mesh("abc")
    mesh.hosts["a"].put(b"k", b"v", 0.0)
    mesh.link_all()
    mesh.run(1.0)
    before = mesh.messages
    mesh.run(30.0)
    assert 6 <= mesh.messages - before <= 12  # 3 hosts, one ROOT each 8–12 s


@pytest.mark.parametrize("seed", range(6))
def test_lossy_mesh_converges(seed: int) -> None:
    mesh = Mesh(NAMES, seed=seed, loss=0.3, floor_tombstones=6, floor_age=20.0)
    mesh.link_all()
    rng = Random(seed)
    for _ in range(40):
        churn(mesh, rng, 3)
        mesh.run(0.5)
    mesh.loss = 0.0
    mesh.run(120.0, 1.0)
    mesh.check()


@pytest.mark.parametrize("seed", range(6))
def test_partition_and_heal_with_floors_rising_meanwhile(seed: int) -> None:
    mesh = Mesh(NAMES, seed=seed, floor_tombstones=4, floor_age=5.0)
    mesh.link_all()
    rng = Random(seed)
    churn(mesh, rng, 60)
    mesh.run(2.0)
    mesh.check()
    across = [pair for pair in mesh.links if (pair[0] in "abc") != (pair[1] in "abc")]
    for pair in across:
        mesh.cut(*pair)
    for _ in range(30):
        churn(mesh, rng, 8)
        mesh.run(0.5)
    mesh.run(2.0)
    assert len(mesh.roots("abc")) == 1
    assert len(mesh.roots("def")) == 1
    assert len(mesh.roots()) == 2
    mesh.link("a", "d")  # one link is enough
    mesh.settle()
    mesh.check()


def test_a_key_deleted_while_a_host_was_away_never_comes_back() -> None:
    mesh = Mesh("abc", floor_tombstones=4)
    mesh.link_all()
    mesh.hosts["a"].put(b"gone", b"1", mesh.now)
    mesh.run(1.0)
    for pair in [pair for pair in mesh.links if "c" in pair]:
        mesh.cut(*pair)
    for key in (b"gone", *(b"x%d" % n for n in range(20))):
        mesh.hosts["a"].put(key, b"2", mesh.now)
        mesh.run(0.5)
        mesh.hosts["a"].delete(key, mesh.now)
        mesh.run(0.5)
    log = mesh.hosts["b"].store.logs[mesh.hosts["a"].store.me]
    assert log.floor > 2
    assert b"gone" not in log.records  # even the tombstone
    mesh.link("b", "c")
    mesh.settle()
    mesh.check()
    mesh.link("a", "c")
    mesh.run(30.0)
    mesh.check()
    assert (mesh.hosts["a"].store.me, b"gone") not in mesh.live("c")


def test_restart_with_a_higher_epoch_replaces_the_old_log() -> None:
    mesh = Mesh("abc")
    mesh.link_all()
    mesh.hosts["a"].put(b"h", b"first life", mesh.now)
    mesh.hosts["a"].put(b"old", b"x", mesh.now)
    mesh.run(1.0)
    mesh.start("a", epoch=2)
    mesh.hosts["a"].put(b"h", b"second life", mesh.now)
    mesh.link("a", "b")
    mesh.settle()
    mesh.check()
    assert mesh.live("c") == {(mesh.hosts["a"].store.me, b"h"): b"second life"}


def test_restart_with_the_old_epoch_is_reported_and_mended() -> None:
    mesh = Mesh("abc")
    mesh.link_all()
    for n in range(5):
        mesh.hosts["a"].put(b"k%d" % n, b"first life", mesh.now)
        mesh.run(0.5)
    mesh.start("a", epoch=1)  # a backup was restored
    mesh.hosts["a"].put(b"k0", b"second life", mesh.now)
    mesh.link("a", "b")
    mesh.settle()
    assert mesh.ahead["a"]
    assert set(mesh.ahead["a"]) == {1}
    mesh.hosts["a"].raise_epoch(2, mesh.now)
    mesh.settle()
    mesh.check()
    assert mesh.live("c") == {(mesh.hosts["a"].store.me, b"k0"): b"second life"}


def test_a_log_of_many_messages_with_a_floor_arrives_whole() -> None:
    mesh = Mesh("abc", floor_tombstones=4)
    host = mesh.hosts["a"]
    for n in range(300):
        host.put(b"k%d" % n, bytes(1500), mesh.now)
    mesh.run(0.5)
    for n in range(0, 100, 3):
        host.delete(b"k%d" % n, mesh.now)
        mesh.run(0.1, 0.1)
    mesh.link("a", "b")
    mesh.link("b", "c")
    mesh.settle()
    mesh.check()
    assert len(mesh.live("c")) == 300 - 34


def test_a_snapshot_cut_short_and_taken_up_elsewhere() -> None:
    """The half of a snapshot that came from a must not be mixed with a delta of b, which knows less."""
    mesh = Mesh("abc", floor_tombstones=4)
    host = mesh.hosts["a"]
    mesh.link_all()
    for n in range(300):
        host.put(b"k%d" % n, bytes(1500), mesh.now)
    mesh.run(1.0)
    for pair in [pair for pair in mesh.links if "c" in pair]:
        mesh.cut(*pair)
    for n in range(60):
        host.delete(b"k%d" % n, mesh.now)
        mesh.run(0.1, 0.1)
    mesh.cut("a", "b")
    for n in range(60, 100):
        host.delete(b"k%d" % n, mesh.now)
        mesh.run(0.1, 0.1)
    mesh.link("a", "c")
    exchange(mesh, "a", "c", records=1)
    mesh.cut("a", "c")
    mesh.link("b", "c")
    mesh.settle()
    mesh.run(60.0, 1.0)
    mesh.cut("b", "c")
    mesh.link("a", "b")
    mesh.run(5.0)
    mesh.link("b", "c")
    mesh.run(60.0, 1.0)
    mesh.check()
    assert len(mesh.live("c")) == 200


def exchange(mesh: Mesh, source: str, target: str, records: int) -> None:
    """Carry messages one by one until `records` RECORDS have gone from source to target."""
    near, far = mesh.links[source, target]
    while records:
        for link, message in mesh.hosts[target].poll(mesh.now):
            if link == far:
                mesh.hosts[source].receive(near, message, mesh.now)
        for link, message in mesh.hosts[source].poll(mesh.now):
            if link != near or not records:
                continue
            mesh.hosts[target].receive(far, message, mesh.now)
            while mesh.hosts[target].busy:
                mesh.hosts[target].handle_timer(mesh.now)
            records -= isinstance(message, Records)


def test_a_slow_link_merges_what_waits() -> None:
    mesh = Mesh("ab")
    mesh.link("a", "b")
    mesh.settle()
    near, _ = mesh.links["a", "b"]
    host = mesh.hosts["a"]
    for n in range(200):
        host.put(b"k", b"v%d" % n, float(n))
        assert host.poll(float(n), {near: LINK_BACKLOG}) == []
        assert host.waiting
    out = host.poll(200.0)
    assert len(out) == 1
    assert isinstance(out[0][1], Records)
    (batch,) = out[0][1].batches
    assert [record.value for record in batch.records] == [b"v199"]


def test_poll_stops_at_the_backlog() -> None:
    mesh = Mesh("ab")
    host = mesh.hosts["a"]
    for n in range(300):
        host.put(b"k%d" % n, bytes(3000), 0.0)
    host.handle_timer(1.0)
    host.link_up(LinkId(1), mesh.hosts["b"].store.me, 1.0)
    assert len(host.poll(1.0)) <= 4
    assert host.waiting


def test_signatures_are_checked_in_slices() -> None:
    verifier = CountingVerifier()
    source, target = make_gossip("a"), make_gossip("b", verifier=verifier, slice_size=10)
    for n in range(100):
        source.put(b"k%d" % n, b"v", 0.0)
    source.handle_timer(1.0)
    source.link_up(LinkId(1), target.store.me, 1.0)
    target.link_up(LinkId(2), source.store.me, 1.0)
    calls = 0
    for _, message in source.poll(1.0):
        target.receive(LinkId(2), message, 1.0)
    while target.busy:
        before = verifier.count
        assert target.next_deadline(1.0) == 1.0
        target.handle_timer(1.0)
        assert verifier.count - before <= 10
        calls += 1
    assert calls == 9
    assert target.store.root_hash() == source.store.root_hash()
    assert verifier.count == 100


def test_the_inbox_is_bounded() -> None:
    source, target = make_gossip("a"), make_gossip("b", slice_size=0)
    target.link_up(LinkId(2), source.store.me, 0.0)
    source.put(b"k", b"v", 0.0)
    batch = source.store.delta(source.store.me, 0, snapshot=False, max_bytes=1000)
    assert batch is not None
    for _ in range(MAX_INBOX // 250 + 1):
        target.receive(LinkId(2), Records((batch,) * 250), 0.0)
    assert target.store.drops[DropReason.QUEUE_FULL] == 250 * (MAX_INBOX // 250 + 1) - MAX_INBOX


def test_a_host_that_sends_more_than_can_be_checked_keeps_nobody_elses_records_out() -> None:
    """It fills all the room there is before the other one says a word, and goes on."""
    target, honest, flood = make_gossip("t", slice_size=4), make_gossip("a"), make_gossip("f")
    target.link_up(LinkId(1), honest.store.me, 0.0)
    target.link_up(LinkId(2), flood.store.me, 0.0)
    flood.put(b"k", b"v", 0.0)
    batch = flood.store.delta(flood.store.me, 0, snapshot=False, max_bytes=1000)
    assert batch is not None
    forged = replace(batch, records=tuple(record._replace(signature=bytes(64)) for record in batch.records))
    for _ in range(MAX_INBOX // 250 + 1):
        target.receive(LinkId(2), Records((forged,) * 250), 0.0)
    for number in range(5):
        honest.put(b"a%d" % number, b"v", number / 10)
        news = honest.store.delta(honest.store.me, number, snapshot=False, max_bytes=1000)
        assert news is not None
        target.receive(LinkId(1), Records((news,)), number / 10)
        target.receive(LinkId(2), Records((forged,) * 250), number / 10)
        target.handle_timer(number / 10)
        target.handle_timer(number / 10)
        assert target.store.value(honest.store.me, b"a%d" % number) == b"v"


def test_what_is_left_of_a_batch_comes_before_what_followed_it() -> None:
    target, source, other = make_gossip("t", slice_size=4), make_gossip("a"), make_gossip("b")
    for number, host in enumerate((source, other)):
        target.link_up(LinkId(number), host.store.me, 0.0)
    for number in range(30):
        for host in (source, other):
            host.put(b"k%d" % number, b"v", float(number))
    for number, host in enumerate((source, other)):
        for start in (0, 10, 20):
            news = host.store.delta(host.store.me, start, snapshot=False, max_bytes=1 << 20)
            assert news is not None
            target.receive(LinkId(number), Records((replace(news, complete=False, records=news.records[:10]),)), 40.0)
    while target.busy:
        target.handle_timer(40.0)
    for host in (source, other):
        assert target.store.logs[host.store.me].highest == 30
    assert not any(isinstance(message, Want) for _, message in target.poll(40.0))


def test_a_gap_is_asked_for_once() -> None:
    host = make_gossip("b")
    public = public_of("a")
    origin = make_gossip("a").store.me
    record = sign_record(MESH_ID, Record(origin, 1, 9, b"k", b"v", b""), fake_signer(public))
    for link in (1, 2, 3):
        host.link_up(LinkId(link), origin, 0.0)
    host.poll(0.0)
    for link in (1, 2, 3):
        host.receive(LinkId(link), Records((Batch(public, 1, 8, True, None, (record,)),)), 0.0)
    assert host.poll(0.0) == [(LinkId(1), Want((WantRow(short_id(origin), 1, 0),)))]


def test_a_message_on_an_unknown_link_is_nothing() -> None:
    host = make_gossip("a")
    host.receive(LinkId(7), Root(b"x" * 8), 0.0)
    assert host.poll(0.0) == []


def test_records_left_out_by_a_relay_are_found() -> None:
    """b passes a's log on with a hole in it; c asks the next honest neighbour for the whole."""
    mesh = Mesh("ac")
    host = mesh.hosts["a"]
    for n in range(4):
        host.put(b"k%d" % n, b"v", float(n))
    whole = host.store.delta(host.store.me, 0, snapshot=False, max_bytes=10_000)
    assert whole is not None
    hole = Batch(whole.public, whole.epoch, 0, True, None, (whole.records[0], *whole.records[2:]))
    mesh.hosts["c"].link_up(LinkId(99), host.store.me, 0.0)
    mesh.hosts["c"].receive(LinkId(99), Records((hole,)), 0.0)
    mesh.hosts["c"].link_down(LinkId(99), 0.0)
    assert len(mesh.roots()) == 2
    mesh.link("a", "c")
    mesh.settle()
    mesh.run(30.0)
    mesh.check()


def test_who_asks_for_comparisons_all_the_time_is_answered_now_and_then() -> None:
    host = make_gossip("a")
    host.put(b"k", b"v", 0.0)
    host.link_up(LinkId(1), make_gossip("b").store.me, 0.0)
    host.link_up(LinkId(2), make_gossip("c").store.me, 0.0)
    host.poll(0.0)
    answers = 0
    for n in range(1000):
        host.receive(LinkId(1), Root(b"another!"), n / 100)  # for 10 s
        answers += sum(isinstance(message, DigestMessage) for _, message in host.poll(n / 100))
    assert ROOT_BURST + 9 * ROOT_RATE <= answers <= ROOT_BURST + 10 * ROOT_RATE
    assert host._drops[DropReason.RATE_LIMITED] == 1000 - answers
    host.receive(LinkId(2), Root(b"another!"), 10.0)  # others are served as ever
    assert any(isinstance(message, DigestMessage) for link, message in host.poll(10.0) if link == LinkId(2))


def test_who_sends_digests_all_the_time_is_read_now_and_then() -> None:
    host = make_gossip("a")
    host.link_up(LinkId(1), make_gossip("b").store.me, 0.0)
    host.poll(0.0)
    row = Digest(ShortId(b"\x55" * 8), 1, 1, 1)
    for _ in range(200):
        host.receive(LinkId(1), DigestMessage(ShortId(bytes(8)), ShortId(b"\xff" * 8), (row,)), 0.0)
    assert host._drops[DropReason.RATE_LIMITED] == 200 - DIGEST_BURST


def sent_bytes(host: Gossip, link: LinkId, now: float) -> int:
    """Of records, on this link; what other links get is dropped."""
    return sum(
        record_size(record)
        for number, message in host.poll(now)
        if number == link and isinstance(message, Records)
        for batch in message.batches
        for record in batch.records
    )


def hoarder(logs: int = 20, size: int = 16_000, keys: int = 60) -> tuple[Gossip, list[HostId]]:
    """A host that holds some 19 MB of others."""
    host = make_gossip("a")
    origins = []
    for number in range(logs):
        public = public_of(f"host {number}")
        origin = Batch(public, 1, 0, True, None, ()).origin
        records = [Record(origin, 1, seq, b"k%d" % seq, bytes(size), b"") for seq in range(1, keys + 1)]
        signed = tuple(sign_record(MESH_ID, record, fake_signer(public)) for record in records)
        host.store.merge(Batch(public, 1, 0, True, None, signed))
        origins.append(origin)
    return host, origins


LOWEST, HIGHEST = ShortId(bytes(8)), ShortId(b"\xff" * 8)


@pytest.mark.parametrize("question", ["want", "digest"])
def test_who_asks_for_everything_again_and_again_is_answered_at_a_rate(question: str) -> None:
    """It reads as fast as we send, on one link after another."""
    host, origins = hoarder()
    asker, other = make_gossip("b").store.me, make_gossip("c").store.me
    want = Want(tuple(WantRow(short_id(origin), 1, 0) for origin in origins))
    total, seconds = 0, 60
    for number in range(10 * seconds):
        link, now = LinkId(number), number / 10
        host.link_up(link, asker, now)
        for _ in range(40):
            host.receive(link, want if question == "want" else DigestMessage(LOWEST, HIGHEST, ()), now)
            total += sent_bytes(host, link, now)
        host.link_down(link, now)
    assert ANSWER_BURST <= total < 1.2 * (ANSWER_BURST + seconds * ANSWER_RATE)
    assert host._drops[DropReason.RATE_LIMITED] > 10_000
    host.link_up(LinkId(1000), other, 60.0)
    host.receive(LinkId(1000), want, 60.0)
    assert sent_bytes(host, LinkId(1000), 60.0) > 0


def test_one_question_is_answered_whole_and_then_paid_off() -> None:
    host, origins = hoarder()
    link, asker = LinkId(1), make_gossip("b").store.me
    host.link_up(link, asker, 0.0)
    want = Want(tuple(WantRow(short_id(origin), 1, 0) for origin in origins))
    host.receive(link, want, 0.0)
    total = 0
    while got := sent_bytes(host, link, 0.0):
        total += got
    assert total == host.store.total_size > ANSWER_BURST
    debt = total - ANSWER_BURST
    host.receive(link, want, 1.0)
    assert sent_bytes(host, link, 1.0) == 0
    assert host._drops[DropReason.RATE_LIMITED] == 1
    host.put(b"k", b"what changes meanwhile", 1.0)
    assert sent_bytes(host, link, 1.0) > 0
    host.receive(link, want, 10.0 + 1.1 * debt / ANSWER_RATE)
    assert sent_bytes(host, link, 1000.0) > 0


def test_what_a_comparison_looks_at_is_made_once_until_something_changes() -> None:
    host = make_gossip("a")
    host.put(b"k", b"v", 0.0)
    digests = host.store.digests()
    assert host.store.digests() is digests
    host.put(b"k", b"w", 1.0)
    assert host.store.digests() != digests
    other = make_gossip("b")
    other.put(b"k", b"v", 0.0)
    batch = other.store.delta(other.store.me, 0, snapshot=False, max_bytes=1000)
    assert batch is not None
    host.store.merge(batch)
    assert len(host.store.digests()) == 2
