"""Words that people type: hosts, addresses, MACs and containers, and those that fit none or several."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshd.errors import UserError
from meshd.ids import HostId, Mac, format_mac
from meshd.node.lookup import Found, find
from tests.node.test_directory import MAC, OTHER, A, B, Bench, attached, host


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(A, replace(host(b"a" * 32, "alpha"), name=Mac(A[:6])))
    bench.put(B, replace(host(b"b" * 32, "beta"), name=Mac(B[:6])))
    bench.put(A, attached(MAC, addresses=("10.0.1.5/24", "fd00::5/64"), name="web-0123456789"))
    bench.put(B, attached(OTHER, addresses=("10.0.1.6/24",), name="db"))
    return bench


def label(which: HostId, nickname: str) -> str:
    return f"{format_mac(which[:6])}({nickname})"


@pytest.mark.parametrize(
    ("word", "host_id", "mac", "text"),
    [
        ("10.0.1.5", A, MAC, "10.0.1.5 of container web-0123456789 on "),
        ("fd00:0::5", A, MAC, "fd00::5 of container web-0123456789 on "),
        (format_mac(OTHER), B, OTHER, f"{format_mac(OTHER)} on "),
        ("db", B, OTHER, "container db on "),
        ("web-0", A, MAC, "container web-0123456789 on "),
        ("alpha", A, None, ""),
        (format_mac(B[:6]), B, None, ""),
        (B.hex(), B, None, ""),
        (B.hex()[:6], B, None, ""),
        (label(A, "alpha"), A, None, ""),
    ],
)
def test_what_a_word_names(bench: Bench, word: str, host_id: HostId, mac: Mac | None, text: str) -> None:
    found = find(word, bench.directory)
    where = label(host_id, "alpha" if host_id == A else "beta")
    assert (found.host, found.mac, found.text) == (host_id, mac, text + where)


@pytest.mark.parametrize("word", ["10.0.1.7", "fd00::6", "02:00:00:00:00:99", "gamma", "web", "al", "020", "%"])
def test_what_names_nothing(bench: Bench, word: str) -> None:
    with pytest.raises(UserError) as error:
        find(word, bench.directory)
    assert "meshd status" in error.value.hint


def test_a_word_that_fits_several_lists_them(bench: Bench) -> None:
    bench.put(B, replace(host(b"b" * 32, "alpha"), name=Mac(B[:6])))
    with pytest.raises(UserError, match="'alpha' may be any of") as error:
        find("alpha", bench.directory)
    assert label(A, "alpha") in str(error.value)
    assert label(B, "alpha") in str(error.value)


@pytest.mark.parametrize("word", ["alpha", "db"])
def test_a_host_that_is_dead_makes_no_name_ambiguous(bench: Bench, word: str) -> None:
    """As one that was installed anew: its former identity is remembered under the same name, with the same containers."""
    bench.put(B, replace(host(b"b" * 32, "alpha"), name=Mac(B[:6])))
    bench.put(A, attached(MAC, name="db"))
    for alive in ({A, B}, set[HostId]()):
        with pytest.raises(UserError, match="may be any of"):
            find(word, bench.directory, alive)
    for alive in ({A}, {B}):
        assert {find(word, bench.directory, alive).host} == alive


def test_the_holder_of_an_address_that_two_have_is_found(bench: Bench) -> None:
    bench.put(B, attached(OTHER, addresses=("10.0.1.5/24",), name="thief"))
    assert find("10.0.1.5", bench.directory) == Found(
        host=A,
        text=f"10.0.1.5 of container web-0123456789 on {label(A, 'alpha')}",
        mac=MAC,
    )
