"""What a user's word may mean, against an engine made of a list."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.capture.containers import ContainerDetails, ContainerSummary, match_container, resolve_target
from meshd.capture.netns import NamespaceRef, host_namespace_inode
from meshd.errors import UserError

WEB, WEB2, DB = "ab12" + "0" * 60, "ab34" + "0" * 60, "cd56" + "0" * 60
LIST = (
    ContainerSummary(id=WEB, names=("web",), state="running"),
    ContainerSummary(id=WEB2, names=("web-2",), state="exited"),
    ContainerSummary(id=DB, names=("database", "ab1"), state="running"),
)


@dataclasses.dataclass
class FakeEngine:
    details: ContainerDetails

    async def list_containers(self) -> Sequence[ContainerSummary]:
        return LIST

    async def inspect(self, container_id: str) -> ContainerDetails:
        return dataclasses.replace(self.details, id=container_id)


RUNNING = ContainerDetails(id=WEB, name="web", pid=os.getpid(), state="running", network_mode="bridge")


def resolve(word: str, **changes: object) -> None:
    details = dataclasses.replace(RUNNING, **changes)  # type: ignore[arg-type]
    asyncio.run(resolve_target(word, FakeEngine(details)))


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("web", WEB),  # an exact name wins over being the beginning of another
        ("web-", WEB2),
        (WEB, WEB),
        (WEB[:12], WEB),
        ("AB34", WEB2),
        ("data", DB),
        ("ab1", DB),  # an exact name wins over an id's beginning
        ("ab12", WEB),
    ],
)
def test_one_match(word: str, found: str) -> None:
    assert match_container(word, LIST).id == found


def test_several_matches_are_named() -> None:
    with pytest.raises(UserError) as caught:
        match_container("ab", LIST)
    assert "web (running), web-2 (exited), database (running)" in str(caught.value)


def test_many_matches_are_not_all_named() -> None:
    many = [ContainerSummary(id=f"{number:064x}", names=(f"job-{number}",), state="running") for number in range(100)]
    with pytest.raises(UserError, match="and 95 more"):
        match_container("job", many)


@pytest.mark.parametrize("word", ["nothing", "eb", "atabase", "ab1200001"])
def test_no_match(word: str) -> None:
    with pytest.raises(UserError, match="no container"):
        match_container(word, LIST)


@pytest.mark.parametrize(
    "word",
    [
        "",
        " ",
        "two words",
        "../etc",
        "web\n",
        "-f",
        "x" * 300,
        "pid:",
        "pid:0",
        "pid:-1",
        "pid:x",
        "pid:99999999999",
        "pid:٣",
        "netns:",
        "netns:..",
        "netns:a/b",
        "netns:no-such-name",
        "docker:web",
    ],
)
def test_malformed_words(word: str) -> None:
    with pytest.raises(UserError):
        resolve(word)


@given(st.text(max_size=80))
def test_any_word_is_answered_or_refused(word: str) -> None:
    with pytest.raises(UserError):  # this test's process is in the host's namespace, so nothing can be attached
        resolve(word)


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ("exited", "docker start web"),
        ("created", "docker start web"),
        ("paused", "docker unpause web"),
        ("restarting", "wait"),
        ("dead", "docker rm web"),
        ("", "must be running"),
        ("something new", "must be running"),
    ],
)
def test_not_running(state: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        resolve("web", state=state)


def test_running_without_a_process() -> None:
    with pytest.raises(UserError, match="must be running"):
        resolve("web", pid=0)


def test_network_of_the_host_by_mode_and_by_inode() -> None:
    with pytest.raises(UserError, match="container web uses the host's network"):
        resolve("web", network_mode="host", pid=1)
    with pytest.raises(UserError, match="container web uses the host's network"):
        resolve("web", network_mode=f"container:{DB}")


@pytest.mark.parametrize("mode", ["none", "bridge", "my-network", f"container:{DB}"])
def test_every_other_mode(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    namespace = NamespaceRef(kind="docker", label="container web", path="p", inode=host_namespace_inode(), pid=7)
    monkeypatch.setattr("meshd.capture.containers.namespace_ref", lambda *_: namespace)
    engine = FakeEngine(dataclasses.replace(RUNNING, pid=7, network_mode=mode))
    target = asyncio.run(resolve_target("/web", engine))
    assert (target.id, target.full_id, target.name, target.pid) == (WEB[:12], WEB, "web", 7)
    assert target.namespace is namespace
