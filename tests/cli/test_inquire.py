"""ping and trace: what they print, when they end, and with which status."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from meshd.control.inquiry import ping_body, trace_body
from meshd.control.render_inquiry import render_trace
from meshd.errors import UserError
from tests.cli.conftest import Meshd
from tests.control.fake import FakeHandlers
from tests.control.samples import HOST1, HOST2, ping_view, trace_view


def test_ping_asks_so_often_and_sums_up(meshd: Meshd, router: FakeHandlers) -> None:
    router.pings = [ping_view(0.4), ping_view(None), ping_view(0.8)]
    outcome = meshd("ping", "-c", "3", "-i", "0", "host2")
    assert (outcome.status, outcome.err) == (0, "")
    path = "direct 192.168.48.12:6783: alive, MTU 1372, rtt 0.42 ms, loss 0% (probes are answered)"
    assert outcome.out.splitlines() == [
        f"{HOST2}(host2) answers in 0.40 ms, {path}",
        f"no answer from {HOST2}(host2): {path}",
        f"{HOST2}(host2) answers in 0.80 ms, {path}",
        "3 asked, 2 answered, 33% lost, rtt min/avg/max 0.40/0.60/0.80 ms",
    ]
    assert router.calls == [("ping", "host2")] * 3


def test_ping_without_an_answer_is_a_failure(meshd: Meshd, router: FakeHandlers) -> None:
    router.pings = [ping_view(None)]
    outcome = meshd("ping", "-c", "2", "-i", "0", "10.0.1.5/24")
    assert outcome.status == 1
    assert outcome.out.endswith("2 asked, 0 answered, 100% lost\n")
    assert router.calls == [("ping", "10.0.1.5")] * 2  # the prefix length means nothing here


def test_ping_of_this_host_says_so_once(meshd: Meshd, router: FakeHandlers) -> None:
    router.pings = [replace(ping_view(0.0), name=HOST1, nickname="host1", path=None)]
    outcome = meshd("ping", "host1")
    assert (outcome.status, outcome.out) == (0, f"{HOST1}(host1) is this host\n")


def test_ping_as_json(meshd: Meshd, router: FakeHandlers) -> None:
    outcome = meshd("ping", "-c", "2", "-i", "0", "--json", "host2")
    assert json.loads(outcome.out) == [ping_body(ping_view())] * 2


def test_trace(meshd: Meshd, router: FakeHandlers) -> None:
    outcome = meshd("trace", "10.0.1.5")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == (
        f"target    10.0.1.5 of container web on {HOST2}(host2), MAC 7e:00:00:00:00:02\n"
        f"decision  unicast to {HOST2}(host2)\n"
        "flow      no frame for it has been captured lately\n"
        "session   established 12s ago\n"
        "path      direct 192.168.48.12:6783: alive, MTU 1372, rtt 0.42 ms, loss 0% (probes are answered)\n"
        f"leg       {HOST1}(host1) → 7e:ae:cd:d5:23:8d(host3): handed to a relay, rtt 0.40 ms, MTU 1372, cost 0\n"
        f"leg       7e:ae:cd:d5:23:8d(host3) → {HOST2}(host2): direct, rtt not measured yet, MTU 1424, cost 1\n"
        "end       the router there answers in 0.90 ms\n"
    )
    assert json.loads(meshd("trace", "10.0.1.5", "--json").out) == trace_body(trace_view())


@pytest.mark.parametrize(
    ("way", "text"), [("silent", "does not answer"), ("none", "knows no way on"), ("self", "is there")]
)
def test_a_leg_that_leads_nowhere(way: str, text: str) -> None:
    legs = (replace(trace_view().legs[0], way=way, next_name="", next_nickname=""),)
    assert f"leg       {HOST1}(host1) {text}\n" in render_trace(trace_body(replace(trace_view(), legs=legs)))


def test_trace_without_an_answer_is_a_failure(meshd: Meshd, router: FakeHandlers) -> None:
    router.traced = replace(trace_view(), rtt_ms=None)
    outcome = meshd("trace", "web")
    assert outcome.status == 1
    assert outcome.out.endswith("end       the router there does not answer\n")


@pytest.mark.parametrize("verb", ["ping", "trace"])
@pytest.mark.parametrize("word", ["", "two words", "x" * 300, "a\x07b"])
def test_words_that_name_nothing(meshd: Meshd, router: FakeHandlers, verb: str, word: str) -> None:
    outcome = meshd(verb, word)
    assert (outcome.status, outcome.out) == (1, "")
    assert "names nothing; give an address, a MAC, or the name of a host or container\n" in outcome.err
    assert outcome.err.count("\n") == 1
    assert router.calls == []


@pytest.mark.parametrize("verb", ["ping", "trace"])
def test_what_the_router_does_not_know(meshd: Meshd, router: FakeHandlers, verb: str) -> None:
    router.fail = UserError("nothing in the mesh is called 'wbe'", hint="`meshd status peers` lists hosts")
    outcome = meshd(verb, "wbe")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "meshd: nothing in the mesh is called 'wbe'; `meshd status peers` lists hosts\n"


@pytest.mark.parametrize("arguments", [["ping"], ["ping", "-c", "0", "x"], ["ping", "-i", "-1", "x"], ["trace"]])
def test_usage(meshd: Meshd, arguments: list[str]) -> None:
    outcome = meshd(*arguments)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
