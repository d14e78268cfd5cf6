"""A short run of every target (`make fuzz` is the long one), and the harness itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from random import Random

import msgpack
import pytest

from meshd.control.inputs import check_ifname
from meshd.errors import DecodeError, UserError
from tests.fuzz import targets
from tests.fuzz.mutate import MAX_SIZE, bytes_like, tree_like
from tests.fuzz.run import Find, inputs, run
from tests.fuzz.targets import TARGETS, Target

COUNT = int(os.environ.get("FUZZ_INPUTS", "20000"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A line of log for each damaged row is right, but not twenty thousand of them here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS)
def test_only_refused(target: str) -> None:
    run(target, COUNT)


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_repeat_and_differ(target: str) -> None:
    first = list(inputs(target, 1, 200))
    assert first == list(inputs(target, 1, 200))
    assert len({data for _, data in first}) > 60
    assert first != list(inputs(target, 2, 200))


def test_a_find_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(data: bytes) -> None:
        if len(data) == 4:
            raise KeyError("seen")
        raise DecodeError("refused")

    monkeypatch.setitem(targets.TARGETS, "broken", Target([b"good"], lambda: feed))
    with pytest.raises(Find, match=r"'broken', seed 3, input \d+: KeyError: 'seen'"):
        run("broken", 1000, seed=3)


def test_mutations_stay_small_and_keep_the_kind_of_a_tree() -> None:
    rng = Random(1)
    assert all(len(bytes_like(rng, [b"x" * 3000, b""])) <= MAX_SIZE for _ in range(2000))
    tree = [1, b"a", {2: "b"}]
    changed = [tree_like(rng, tree) for _ in range(2000)]
    assert tree == [1, b"a", {2: "b"}]  # what a corpus holds is not itself changed
    assert sum(isinstance(one, list) and one != tree for one in changed) > 1600
    assert sum(is_packed_again(one) for one in changed) > 1800


def is_packed_again(tree: object) -> bool:
    """A number beyond 64 bits is not."""
    try:
        return bool(msgpack.packb(tree))
    except (OverflowError, ValueError):
        return False


# finds


def test_a_stored_attachment_whose_mac_is_a_list() -> None:
    feed = TARGETS["stored hosts and attachments"].make()
    feed(
        b'{"id": "c1", "name": "web", "mac": [], "ifname": "eth1", "host_end": "", "addresses": [], "namespace": [4, 7]}'
    )


def test_an_interface_name_that_is_no_unicode() -> None:
    with pytest.raises(UserError, match="malformed interface name"):
        check_ifname("eth\udc81")
