"""Writing the own log: the first change at once, the rest collected; floors by number and by age; a raised epoch."""

from __future__ import annotations

import pytest

from meshd.errors import LocalProtocolError, UserError
from meshd.gossip.local import COLLECT_TIME, Writer
from meshd.gossip.records import MAX_KEY, MAX_VALUE
from meshd.gossip.store import Store
from meshd.gossip.values import HOST_KEY, LINKS_KEY

from .mesh import fake_signer, public_of
from .test_store import events, make_store


def make(**options: float) -> tuple[Store, Writer]:
    store = make_store("origin")
    return store, Writer(store, fake_signer(public_of("origin")), **options)  # type: ignore[arg-type]


def test_the_first_change_at_once_then_collected() -> None:
    store, writer = make()
    assert writer.put(b"a", b"1", 10.0) == 0
    assert writer.put(b"a", b"2", 10.01) is None
    assert writer.put(b"b", b"1", 10.02) is None
    assert writer.put(b"a", b"3", 10.03) is None
    assert (writer.get(b"a"), store.value(store.me, b"a")) == (b"3", b"1")
    assert writer.next_deadline() == 10.0 + COLLECT_TIME
    assert writer.handle_timer(10.04) is None
    assert writer.handle_timer(10.05) == 1
    assert store.own.highest == 3  # two keys, two signatures
    assert writer.next_deadline() is None
    assert writer.put(b"c", b"1", 10.2) == 3


def test_no_change_is_no_record() -> None:
    store, writer = make()
    writer.put(b"a", b"1", 0.0)
    assert writer.put(b"a", b"1", 5.0) is None
    assert writer.delete(b"never there", 5.0) is None
    writer.put(b"b", b"1", 6.0)
    writer.put(b"a", b"2", 6.01)
    writer.put(b"a", b"1", 6.02)  # and back, within the window
    assert writer.handle_timer(6.1) is None
    assert store.own.highest == 2


def test_the_floor_rises_by_number_over_the_older_half() -> None:
    store, writer = make(floor_tombstones=4)
    now = 0.0
    for n in range(5):
        now += 1.0
        writer.put(b"k%d" % n, b"v", now)
        writer.delete(b"k%d" % n, now + 0.5)
        writer.handle_timer(now + 0.6)
    own = store.own
    assert own.floor == 4
    assert own.swept == own.floor
    assert sorted(own.records) == [b"f", b"k2", b"k3", b"k4"]
    assert own.highest == 11


def test_the_floor_rises_by_age() -> None:
    store, writer = make(floor_age=600.0)
    writer.put(b"k", b"v", 0.0)
    writer.delete(b"k", 1.0)
    assert writer.next_deadline() == 601.0
    assert writer.handle_timer(600.0) is None
    assert writer.handle_timer(601.0) == 2
    assert sorted(store.own.records) == [b"f"]
    assert store.own.floor == 2


@pytest.mark.parametrize(
    ("key", "value"), [(b"", b""), (b"k" * (MAX_KEY + 1), b""), (b"f", b""), (b"k", bytes(MAX_VALUE + 1))]
)
def test_what_no_receiver_would_take_is_our_bug(key: bytes, value: bytes) -> None:
    _, writer = make()
    with pytest.raises(LocalProtocolError):
        writer.put(key, value, 0.0)


def test_the_own_quota_is_the_users_business() -> None:
    store, writer = make()
    for n in range(59):
        writer.put(b"k%d" % n, bytes(MAX_VALUE), float(n))
    with pytest.raises(UserError, match="announces too much"):
        writer.put(b"one more", bytes(MAX_VALUE), 100.0)
    writer.put(b"k3", b"m" * MAX_VALUE, 110.0)  # as a MAC's claim that is raised
    assert writer.get(b"k3") == b"m" * MAX_VALUE
    with pytest.raises(UserError, match="announces too much"):
        writer.put(b"H", bytes(MAX_VALUE), 120.0)
    for key in (HOST_KEY, LINKS_KEY):  # who we are, and whom we reach, is said still
        assert writer.put(key, bytes(500), 150.0 + len(key)) is not None or writer.get(key) == bytes(500)
    writer.delete(b"k1", 200.0)
    assert store.value(store.me, b"k1") is None


def test_a_raised_epoch_says_the_same_again() -> None:
    store, writer = make()
    writer.put(b"a", b"1", 0.0)
    writer.put(b"b", b"1", 1.0)
    writer.delete(b"b", 2.0)
    writer.put(b"c", b"waits", 2.01)
    events(store)
    assert writer.raise_epoch(5, 2.02) == 0
    own = store.own
    assert (own.epoch, own.highest, {key: r.value for key, r in own.records.items()}) == (
        5,
        2,
        {b"a": b"1", b"c": b"waits"},
    )
    assert [repr(event) for event in events(store)] == [
        f"Changed(origin={store.me!r}, key=b'c', old=None, new=b'waits')"
    ]
    with pytest.raises(LocalProtocolError):
        writer.raise_epoch(5, 3.0)
