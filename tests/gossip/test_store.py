"""Merging, rung by rung of the guard ladder; floors and snapshots; quotas; what a thousand of records cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.drops import DropCounters, DropReason
from meshd.gossip import store as store_module
from meshd.gossip.records import Batch, Record, encode_floor, record_size, sign_record
from meshd.gossip.store import Changed, OwnLogAhead, Store
from meshd.ids import HostId

from .mesh import MESH_ID, CountingVerifier, fake_signer, public_of

PUBLIC = public_of("origin")
ORIGIN = Batch(PUBLIC, 1, 0, True, None, ()).origin


def make_store(name: str = "me", verifier: CountingVerifier | None = None, epoch: int = 1) -> Store:
    return Store(
        public=public_of(name),
        mesh_id=MESH_ID,
        epoch=epoch,
        verifier=verifier or CountingVerifier(),
        drops=DropCounters(),
    )


def record(seq: int, key: bytes = b"k", value: bytes | None = b"v", epoch: int = 1, name: str = "origin") -> Record:
    public = public_of(name)
    origin = Batch(public, 1, 0, True, None, ()).origin
    return sign_record(MESH_ID, Record(origin, epoch, seq, key, value, b""), fake_signer(public))


def batch(*records: Record, start: int = 0, complete: bool = True, floor: Record | None = None) -> Batch:
    return Batch(PUBLIC, records[0].epoch, start, complete, floor, records)


def events(store: Store) -> list[object]:
    found: list[object] = []
    while (event := store.next_event()) is not None:
        found.append(event)
    return found


def test_change_and_notify() -> None:
    store = make_store()
    merged = store.merge(batch(record(1), record(3, b"l", None)))
    assert (merged.push_from, merged.want, merged.rest, merged.checked) == (0, None, None, 2)
    assert events(store) == [Changed(ORIGIN, b"k", None, b"v")]
    merged = store.merge(batch(record(4, value=b"w"), start=3))
    assert merged.push_from == 3
    assert events(store) == [Changed(ORIGIN, b"k", b"v", b"w")]
    store.merge(batch(record(5, value=None), start=4))
    assert events(store) == [Changed(ORIGIN, b"k", b"w", None)]
    assert store.value(ORIGIN, b"k") is None


def test_changes_that_nobody_fetched_are_one() -> None:
    store = make_store()
    store.merge(batch(record(1, value=b"a")))
    store.merge(batch(record(2, value=b"b"), start=1))
    store.merge(batch(record(3, b"x"), start=2))
    store.merge(batch(record(4, b"x", None), start=3))
    assert events(store) == [Changed(ORIGIN, b"k", None, b"b")]


def test_a_gap_is_asked_for_and_nothing_applied() -> None:
    store = make_store()
    assert store.merge(batch(record(5), start=4)).want == (1, 0)
    store.merge(batch(record(2)))
    assert store.merge(batch(record(5, b"l"), start=4)).want == (1, 2)
    assert store.logs[ORIGIN].highest == 2


def test_stale_and_duplicate_records_cost_no_verification() -> None:
    verifier = CountingVerifier()
    store = make_store(verifier=verifier)
    store.merge(batch(record(1, value=b"a"), record(2, b"l")))
    store.merge(batch(record(3, value=b"b"), start=2))
    count = verifier.count
    assert store.merge(batch(record(1, value=b"a"), record(2, b"l"))).push_from is None
    assert verifier.count == count
    assert store.drops[DropReason.STALE_RECORD] == 0  # redundancy, not loss
    assert store.value(ORIGIN, b"k") == b"b"


def test_old_epochs_are_stale_and_new_ones_replace() -> None:
    store = make_store()
    store.merge(batch(record(7, b"old"), record(8), start=0))
    events(store)
    assert store.merge(batch(record(9, epoch=0))).push_from is None
    assert store.merge(batch(record(9, epoch=2), start=8)).want == (2, 0)  # a new life is taken from its start
    assert store.value(ORIGIN, b"old") == b"v"
    assert store.merge(batch(record(1, value=b"new", epoch=2))).push_from == 0
    assert sorted(map(repr, events(store))) == sorted(
        map(repr, [Changed(ORIGIN, b"old", b"v", None), Changed(ORIGIN, b"k", b"v", b"new")])
    )
    assert store.merge(batch(record(10, b"old"))).push_from is None
    assert store.drops[DropReason.STALE_RECORD] == 2


@pytest.mark.parametrize("field", ["seq", "key", "value", "epoch", "signature", "mesh", "tombstone"])
def test_forged_records(field: str) -> None:
    store = make_store()
    good = record(2)
    forged = {
        "seq": good._replace(seq=3),
        "key": good._replace(key=b"j"),
        "value": good._replace(value=b"x"),
        "epoch": good._replace(epoch=2),
        "signature": good._replace(signature=bytes(64)),
        "mesh": sign_record(b"n" * 16, good, fake_signer(PUBLIC)),
        "tombstone": good._replace(value=None),
    }[field]
    before = store.root_hash()
    assert store.merge(batch(forged)).push_from is None
    assert store.drops[DropReason.BAD_SIGNATURE] == 1
    assert ORIGIN not in store.logs
    assert store.root_hash() == before
    assert events(store) == []


def test_another_member_cannot_write_for_an_origin() -> None:
    store = make_store()
    mallory = fake_signer(public_of("mallory"))
    forged = sign_record(MESH_ID, record(1), mallory)
    store.merge(batch(forged))  # under the origin's key
    assert ORIGIN not in store.logs
    under_own_key = Batch(public_of("mallory"), 1, 0, True, None, (forged,))
    store.merge(under_own_key)  # the batch's key names the origin: it is mallory's own log then
    assert ORIGIN not in store.logs


def test_a_bad_record_ends_its_batch_and_what_was_before_stands() -> None:
    store = make_store()
    merged = store.merge(batch(record(1), record(2, b"l")._replace(value=b"x"), record(3, b"m")))
    assert merged.push_from == 0
    assert store.logs[ORIGIN].highest == 1
    assert store.merge(batch(record(2, b"l"), record(3, b"m"), start=1)).push_from == 1


def test_a_budget_of_signatures() -> None:
    store = make_store()
    merged = store.merge(batch(*(record(n, b"k%d" % n) for n in range(1, 8))), budget=3)
    assert merged.rest is not None
    assert (merged.checked, merged.rest.start, len(merged.rest.records)) == (3, 3, 4)
    merged = store.merge(merged.rest, budget=0)
    assert merged.rest is not None
    assert merged.rest.start == 3
    assert store.merge(merged.rest).rest is None
    assert store.logs[ORIGIN].highest == 7


def test_about_me() -> None:
    store = make_store("origin", epoch=2)
    assert store.me == ORIGIN
    store.merge(batch(record(9, epoch=1)))
    assert events(store) == []  # an earlier life: known
    store.merge(batch(record(9, epoch=2)._replace(value=b"forged")))
    assert events(store) == []
    assert store.drops[DropReason.BAD_SIGNATURE] == 1
    store.merge(batch(record(9, epoch=2)))
    store.merge(batch(record(1, epoch=7)))
    assert events(store) == [OwnLogAhead(7)]
    assert store.own.highest == 0


def test_about_me_under_a_sequence_that_i_used_otherwise() -> None:
    store = make_store("origin")
    store.own.put(record(1, value=b"mine"))
    store.own.put(record(2, b"l", b"mine"))
    store.merge(batch(record(1, value=b"mine")))
    assert events(store) == []
    store.merge(batch(record(1, value=b"another life's")))
    assert events(store) == [OwnLogAhead(1)]
    store.merge(batch(record(2, b"never written")))
    assert events(store) == [OwnLogAhead(1)]


def test_two_records_under_one_sequence_end_alike_everywhere() -> None:
    one, two = record(1, value=b"one"), record(1, value=b"two")
    stores = [make_store("a"), make_store("b")]
    for store, order in zip(stores, ((one, two), (two, one)), strict=True):
        for item in order:
            store.merge(batch(item))
    assert stores[0].value(ORIGIN, b"k") == stores[1].value(ORIGIN, b"k")


def test_quotas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_KEYS_PER_ORIGIN", 3)
    store = make_store()
    store.merge(batch(*(record(n, b"k%d" % n) for n in range(1, 6))))
    assert store.logs[ORIGIN].highest == 3
    assert store.drops[DropReason.RECORD_QUOTA] == 1
    store.merge(batch(record(9, b"k1", b"w"), start=3))  # a key that is there may change
    assert store.value(ORIGIN, b"k1") == b"w"

    monkeypatch.setattr(store_module, "MAX_ORIGIN_BYTES", 500)
    store = make_store()
    store.merge(batch(*(record(n, b"k%d" % n, bytes(200)) for n in range(1, 3))))
    assert store.logs[ORIGIN].highest == 1
    store.merge(batch(record(5, b"k1", b""), start=1))  # less than before: always
    assert store.logs[ORIGIN].highest == 5

    monkeypatch.setattr(store_module, "MAX_TOTAL_BYTES", 100)
    store.merge(Batch(public_of("other"), 1, 0, True, None, (record(1, value=bytes(90), name="other"),)))
    assert store.drops[DropReason.RECORD_QUOTA] == 2

    monkeypatch.setattr(store_module, "MAX_ORIGINS", 2)
    store.merge(Batch(public_of("third"), 1, 0, True, None, (record(1, name="third"),)))
    assert store.drops[DropReason.RECORD_QUOTA] == 3


def test_a_second_host_with_the_same_short_id_is_refused() -> None:
    store = make_store()
    store.merge(batch(record(1)))
    assert not store._admits(HostId(ORIGIN[:8] + b"another!"))


@pytest.mark.parametrize(
    ("key", "value"), [(b"f", None), (b"f", b"\xc1"), (b"f", encode_floor(9)), (b"x", encode_floor(3))]
)
def test_a_malformed_floor(key: bytes, value: bytes | None) -> None:
    store = make_store()
    store.merge(batch(record(1)))
    floor = record(9, key, value)
    assert store.merge(batch(record(9, b"y"), start=1, floor=floor)).push_from is None
    assert store.drops[DropReason.BAD_RECORD] == 1
    if floor.key == b"f":
        assert store.merge(batch(floor, start=1)).push_from is None
        assert store.drops[DropReason.BAD_RECORD] == 2
    assert store.logs[ORIGIN].floor == 0


def test_a_forged_floor_deletes_nothing() -> None:
    store = make_store()
    store.merge(batch(record(1), record(2, b"l")))
    floor = record(9, b"f", encode_floor(8))._replace(signature=bytes(64))
    store.merge(batch(record(2, b"l"), floor=floor))
    assert store.drops[DropReason.BAD_SIGNATURE] == 1
    assert store.value(ORIGIN, b"k") == b"v"


def test_a_floor_in_its_turn_drops_the_tombstones() -> None:
    store = make_store()
    store.merge(batch(record(1), record(2, b"l", None)))
    store.merge(batch(record(3, b"f", encode_floor(2)), start=2))
    log = store.logs[ORIGIN]
    assert (log.floor, log.swept, sorted(log.records)) == (2, 2, [b"f", b"k"])
    assert store.merge(batch(record(2, b"l", None))).push_from is None  # a laggard repeats it
    assert store.merge(batch(record(1, b"l", b"before the tombstone"))).push_from is None
    assert sorted(log.records) == [b"f", b"k"]


def test_a_snapshot_in_parts_removes_only_when_it_is_whole() -> None:
    store = make_store()
    store.merge(batch(record(1, b"gone"), record(2, b"moved"), record(3, b"stays")))
    events(store)
    floor = record(9, b"f", encode_floor(8))
    first = store.merge(batch(record(3, b"stays"), floor=floor, complete=False))
    assert first.push_from is None
    assert events(store) == []
    assert store.logs[ORIGIN].known == 0  # asks for all of it, should the rest not come
    last = store.merge(batch(record(7, b"moved", b"w"), floor, start=3, floor=floor))
    assert last.push_from == 3  # from where it was before
    assert set(map(repr, events(store))) == set(
        map(
            repr,
            [
                Changed(ORIGIN, b"gone", b"v", None),
                Changed(ORIGIN, b"moved", b"v", b"w"),
                Changed(ORIGIN, b"f", None, floor.value),
            ],
        )
    )
    assert store.logs[ORIGIN].known == 9


def test_a_snapshot_with_a_part_missing_removes_nothing() -> None:
    store = make_store()
    store.merge(batch(record(1, b"a"), record(2, b"b"), record(3, b"c")))
    floor = record(9, b"f", encode_floor(8))
    store.merge(batch(record(3, b"c"), floor, start=2, floor=floor))
    assert store.value(ORIGIN, b"a") == b"v"
    assert store.logs[ORIGIN].known == 9 or store.logs[ORIGIN].known == 0
    store.merge(batch(record(3, b"c"), floor, floor=floor))
    assert store.value(ORIGIN, b"a") is None
    assert store.logs[ORIGIN].known == 9


@settings(max_examples=60, deadline=None)
@given(
    writes=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_any_order_of_deltas_ends_alike(writes: list[tuple[int, bool]], cuts: list[int], order: object) -> None:
    """Deltas of every stage of an origin's log, repeated and shuffled, and then the whole: all stores end equal."""
    source = make_store("origin")
    deltas = []
    for n, (key, live) in enumerate(writes, 1):
        source.own.put(record(n, b"k%d" % key, b"%d" % n if live else None))
        source.own_changed(b"k", None, b"")
        deltas += [source.delta(ORIGIN, cut, snapshot=False, max_bytes=400) for cut in cuts]
    order.shuffle(deltas)  # type: ignore[attr-defined]
    store = make_store()
    for delta in deltas:
        if delta is not None:
            store.merge(delta)
    while (start := store.logs[ORIGIN].known if ORIGIN in store.logs else 0) < len(writes):
        delta = source.delta(ORIGIN, start, snapshot=False, max_bytes=400)
        assert delta is not None
        store.merge(delta)
    log = store.logs[ORIGIN]
    assert log.records == source.own.records
    assert (log.set_hash, log.size) == (source.own.set_hash, sum(map(record_size, log.records.values())))


def test_merging_20_000_records_checks_each_once() -> None:
    """Measured apart: 0.15 s of CPU, signatures not counted."""
    verifier = CountingVerifier()
    store = make_store(verifier=verifier)
    rows = {n: record(n, b"a%d" % n, bytes(100)) for n in range(1, 201)}
    for host in range(100):
        name = f"host {host}"
        mine = tuple(record(n, row.key, row.value, name=name) for n, row in rows.items())
        item = replace(batch(mine[0]), public=public_of(name), records=mine)
        for _ in range(3):  # from three neighbours
            store.merge(item)
    assert store.records() == verifier.count == 20_000
    assert store.drops[DropReason.STALE_RECORD] == 0


def test_what_a_floor_and_records_about_ourselves_cost_is_counted() -> None:
    """Or a member could have any number of signatures checked in one go."""
    verifier = CountingVerifier()
    store = make_store(verifier=verifier)
    floored = batch(record(1), record(2, b"l"), record(3, b"m"), floor=record(9, b"f", encode_floor(0)))
    merged = store.merge(floored, budget=1)
    assert merged.rest is not None
    assert (merged.checked, verifier.count, len(merged.rest.records)) == (2, 2, 2)  # the floor, and one: it goes on
    public = public_of("me")
    store.merge(Batch(public, 7, 0, True, None, (record(1, epoch=7, name="me"),)))
    mine = Batch(public, 8, 0, True, None, (record(1, epoch=8, name="me"),))
    assert store.merge(mine).checked == 1
    assert (
        store.merge(batch(record(4), floor=record(9, b"f", encode_floor(0))._replace(signature=bytes(64)))).checked == 1
    )
