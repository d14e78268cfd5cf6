"""From the user's word to a network namespace: `pid:N`, `netns:NAME`, or a Docker container by name, id or unique prefix.

Docker itself resolves id prefixes only, so its list is matched here: an exact id or name wins, else the word must begin exactly
one container's id or name. The namespace is found through the container's process (State.Pid), since SandboxKey is empty for
containers that share another one's network, and its inode says which namespace it is whatever the network mode was called.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from meshd.capture.netns import NamespaceRef, namespace_ref
from meshd.errors import UserError

__all__ = ["ContainerDetails", "ContainerEngine", "ContainerSummary", "Target", "match_container", "resolve_target"]

SHORT_ID_LENGTH = 12
NETNS_DIRECTORIES = ("/run/netns", "/var/run/netns")
_MAX_CANDIDATES = 5  # named in an error
_DOCKER_WORD = re.compile(r"/?[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_NETNS_NAME = re.compile(r"[^/\0]{1,255}")
_MAX_PID = 1 << 22  # PID_MAX_LIMIT

_WAYS_OUT = {  # State.Status → what to do
    "created": "start it with `docker start {name}`",
    "exited": "start it with `docker start {name}`",
    "paused": "resume it with `docker unpause {name}`",
    "restarting": "wait until it runs",
    "removing": "it is being removed",
    "dead": "remove it with `docker rm {name}` and run it anew",
}


@dataclass(slots=True, frozen=True, kw_only=True)
class ContainerSummary:
    """One line of the engine's list."""

    id: str
    names: tuple[str, ...]
    state: str


@dataclass(slots=True, frozen=True, kw_only=True)
class ContainerDetails:
    """What the engine says about one container."""

    id: str
    name: str
    pid: int  # 0 when it does not run
    state: str  # "running", "paused", "exited", …
    network_mode: str


class ContainerEngine(Protocol):
    """Docker, or a fake in tests. Both raise UserError."""

    async def list_containers(self) -> Sequence[ContainerSummary]: ...

    async def inspect(self, container_id: str) -> ContainerDetails: ...


@dataclass(slots=True, frozen=True, kw_only=True)
class Target:
    """What the user meant. `id` is what listings show (12 characters of a Docker id, or the word itself)."""

    namespace: NamespaceRef
    id: str
    full_id: str
    name: str
    pid: int


async def resolve_target(word: str, engine: ContainerEngine) -> Target:
    """Raises UserError with the reason and what to do: unknown, ambiguous, not running, the host's network, no permission."""
    kind, separator, rest = word.partition(":")
    if separator and kind == "pid":
        return _by_pid(word, rest)
    if separator and kind == "netns":
        return _by_netns_name(word, rest)
    if not _DOCKER_WORD.fullmatch(word):
        raise UserError(f"{word!r} names no container: give a name, an id, pid:N or netns:NAME")
    summary = match_container(word.removeprefix("/"), await engine.list_containers())
    return _by_details(await engine.inspect(summary.id))


def match_container(word: str, containers: Sequence[ContainerSummary]) -> ContainerSummary:
    """The one container that `word` names. Raises UserError if it is none, or several."""
    for container in containers:
        if word == container.id or word in container.names:
            return container
    begun = [c for c in containers if c.id.startswith(word.lower()) or any(name.startswith(word) for name in c.names)]
    if not begun:
        raise UserError(
            f"no container {word!r}", hint="`docker ps` lists those that run; pid:N and netns:NAME work too"
        )
    if len(begun) > 1:
        shown = ", ".join(f"{_label(c)} ({c.state})" for c in begun[:_MAX_CANDIDATES])
        more = f" and {len(begun) - _MAX_CANDIDATES} more" if len(begun) > _MAX_CANDIDATES else ""
        raise UserError(f"{word!r} may be any of {shown}{more}", hint="give a longer part of the name or id")
    return begun[0]


def _label(container: ContainerSummary) -> str:
    return container.names[0] if container.names else container.id[:SHORT_ID_LENGTH]


def _by_details(details: ContainerDetails) -> Target:
    if details.state != "running" or details.pid <= 0:
        hint = _WAYS_OUT.get(details.state, "it must be running").format(name=details.name)
        raise UserError(f"container {details.name} is {details.state or 'not running'}", hint=hint)
    if details.network_mode == "host":
        raise UserError(
            f"container {details.name} uses the host's network: there is no interface of its own to attach",
            hint="run it with a network of its own (docker run --network bridge or none)",
        )
    # The inode tells also of a `container:X` whose X is on the host's network.
    label = f"container {details.name}"
    namespace = namespace_ref("docker", label, f"/proc/{details.pid}/ns/net", details.pid)
    return Target(
        namespace=namespace,
        id=details.id[:SHORT_ID_LENGTH],
        full_id=details.id,
        name=details.name,
        pid=details.pid,
    )


def _by_pid(word: str, text: str) -> Target:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:10]) <= _MAX_PID:
        raise UserError(f"{word!r} is no process: write pid: and a number, for example pid:4711")
    pid = int(text)
    if not Path(f"/proc/{pid}").exists():
        raise UserError(f"no process {pid}")
    namespace = namespace_ref("pid", word, f"/proc/{pid}/ns/net", pid)
    return Target(namespace=namespace, id=word, full_id=word, name=word, pid=pid)


def _by_netns_name(word: str, name: str) -> Target:
    if not _NETNS_NAME.fullmatch(name) or name in (".", ".."):
        raise UserError(f"{word!r} names no network namespace: write netns: and a name that `ip netns` lists")
    for directory in NETNS_DIRECTORIES:
        path = f"{directory}/{name}"
        if Path(path).exists():
            namespace = namespace_ref("netns", word, path)
            return Target(namespace=namespace, id=word, full_id=word, name=word, pid=0)
    raise UserError(f"no network namespace {name!r}", hint="`ip netns` lists those that have a name")
