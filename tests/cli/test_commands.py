"""connect, forget, attach, detach: what reaches the router, what is printed, and what is refused before anything is asked."""

from __future__ import annotations

import json

import pytest

from meshd.control.api import AttachRequest, DetachRequest
from meshd.errors import UserError
from tests.cli.conftest import Meshd
from tests.control.fake import MAC, FakeHandlers
from tests.control.samples import CONTAINER_ID

NO_AUTOMATIC_ADDRESS = (
    "asks for an automatic address, which this meshd does not give out yet; "
    "give an address with its prefix length: 10.0.1.5/24"
)


def test_connect_and_forget(meshd: Meshd, router: FakeHandlers) -> None:
    for arguments in (
        ["connect", "host2", "[fd00::1]:99"],
        ["connect", "--replace", "host3"],
        ["connect", "--replace"],
    ):
        outcome = meshd(*arguments)
        assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    assert meshd("forget", "host2").status == 0
    assert router.calls == [
        ("connect", ("host2", "[fd00::1]:99"), False),
        ("connect", ("host3",), True),
        ("connect", (), True),
        ("forget", ("host2",)),
    ]


@pytest.mark.parametrize("verb", ["connect", "forget", "launch"])
def test_a_malformed_peer_among_good_ones_changes_nothing(meshd: Meshd, router: FakeHandlers, verb: str) -> None:
    outcome = meshd(verb, "host2", "host3:0")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "meshd: malformed peer 'host3:0': the port is not a number from 1 to 65535\n"
    assert router.calls == []


def test_attach_prints_the_addresses_in_the_order_given(meshd: Meshd, router: FakeHandlers) -> None:
    outcome = meshd("attach", "10.0.1.5/24", "ip:10.0.0.7/16", "fd00::5/64", "web")
    assert (outcome.status, outcome.out, outcome.err) == (0, "10.0.1.5 10.0.0.7 fd00::5\n", "")
    assert router.calls == [AttachRequest(container="web", addresses=("10.0.1.5/24", "10.0.0.7/16", "fd00::5/64"))]


def test_attach_without_an_address_prints_the_mac_and_says_how_to_give_one(meshd: Meshd, router: FakeHandlers) -> None:
    outcome = meshd("attach", "--ifname", "eth1", "web")
    assert (outcome.status, outcome.out) == (0, f"{MAC}\n")
    assert outcome.err == "meshd: web has no address yet; give it one: meshd attach 10.0.1.5/24 web\n"
    assert router.calls == [AttachRequest(container="web", ifname="eth1")]


def test_attach_without_an_address_of_one_that_has_some_prints_these(meshd: Meshd, router: FakeHandlers) -> None:
    router.held = ("10.0.1.5/24",)
    outcome = meshd("attach", "web")
    assert (outcome.status, outcome.out, outcome.err) == (0, "10.0.1.5\n", "")


def test_attach_as_json(meshd: Meshd, router: FakeHandlers) -> None:
    assert json.loads(meshd("attach", "--json", "10.0.1.5/24", "web").out) == {
        "Id": CONTAINER_ID,
        "Mac": MAC,
        "Addresses": ["10.0.1.5/24"],
    }


def test_detach_prints_what_was_taken(meshd: Meshd, router: FakeHandlers) -> None:
    assert meshd("detach", "10.0.1.5/24", "web").out == "10.0.1.5\n"
    outcome = meshd("detach", "web")
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    router.held = ("10.0.1.5/24", "10.0.2.5/24")
    assert meshd("detach", "web").out == "10.0.1.5 10.0.2.5\n"
    assert json.loads(meshd("detach", "web", "--json").out) == {
        "Id": CONTAINER_ID,
        "Addresses": ["10.0.1.5/24", "10.0.2.5/24"],
    }
    assert router.calls[0] == DetachRequest(container="web", addresses=("10.0.1.5/24",))


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["web", "10.0.1.5/24"], 2, "the container comes last; write: meshd VERB 10.0.1.5/24 web"),
        (["10.0.1.5/24"], 2, "no container given; write: meshd VERB 10.0.1.5/24 CONTAINER"),
        (["10.0.1.5", "web"], 1, "address '10.0.1.5' has no prefix length; write it like 10.0.1.5/24"),
        (["web", "db"], 1, "malformed address 'web'; write it like 10.0.1.5/24"),
        (
            ["10.0.1.0/24", "web"],
            1,
            "'10.0.1.0/24' cannot be given to a container: it is the network address of 10.0.1.0/24",
        ),
        (
            ["net:10.0.1.0/24", "web"],
            1,
            f"'net:10.0.1.0/24' {NO_AUTOMATIC_ADDRESS}",
        ),
        (["netns:a/b", "10.0.1.5/24"], 2, "the container comes last; write: meshd VERB 10.0.1.5/24 netns:a/b"),
        ([""], 1, "malformed container name; give a name, an id, pid:N or netns:NAME"),
    ],
)
@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_malformed_requests_do_not_reach_the_router(
    meshd: Meshd, router: FakeHandlers, verb: str, arguments: list[str], status: int, line: str
) -> None:
    outcome = meshd(verb, *arguments)
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err == f"meshd: {line.replace('VERB', verb)}\n"
    assert router.calls == []


def test_a_bad_interface_name_does_not_reach_the_router(meshd: Meshd, router: FakeHandlers) -> None:
    outcome = meshd("attach", "--ifname", "an/interface", "web")
    assert (outcome.status, outcome.err) == (
        1,
        "meshd: malformed interface name 'an/interface'; leave out '/', ':' and spaces\n",
    )
    assert router.calls == []


def test_what_the_router_refuses_is_told_in_its_words(meshd: Meshd, router: FakeHandlers) -> None:
    router.fail = UserError("container web uses the host's network", hint="it cannot be attached")
    outcome = meshd("attach", "10.0.1.5/24", "web")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "meshd: container web uses the host's network; it cannot be attached\n"
