"""As much of the Docker Engine API as meshd needs: list, inspect, events; over the socket of DOCKER_HOST.

The path carries no API version, so the engine answers in its own; the few fields read here are old and stable. Answers are read
up to a bound. Every failure of Docker's is a UserError that says where we asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from meshd.capture.containers import ContainerDetails, ContainerSummary
from meshd.errors import UserError

__all__ = ["DEFAULT_HOST", "EVENTS", "MAX_RESPONSE", "DockerClient", "DockerEvent"]

DEFAULT_HOST = "unix:///var/run/docker.sock"
TIMEOUT = 5.0
MAX_RESPONSE = 32 * 1024 * 1024  # a list of ten thousand containers
MAX_EVENT = 1024 * 1024  # an event repeats all labels of its container
EVENTS = ("start", "die", "destroy", "rename")
_PIECE = 64 * 1024


@dataclass(slots=True, frozen=True, kw_only=True)
class DockerEvent:
    action: str  # one of EVENTS
    id: str
    name: str
    time_ns: int


class DockerClient:
    """One connection pool, made inside a running loop, closed with `close`. It does not reconnect: the caller asks again."""

    def __init__(self, host: str | None = None, *, timeout: float = TIMEOUT) -> None:
        self.host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        self._timeout = timeout
        self._base, connector = _connector(self.host)
        self._session = aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        await self._session.close()

    async def version(self) -> str:
        """The engine's version. Raises UserError if Docker does not answer."""
        return str(_mapping(await self._get("/version")).get("Version", ""))

    async def list_containers(self) -> list[ContainerSummary]:
        """All containers, also those that do not run, so that an error can say so."""
        answer = await self._get("/containers/json?all=1")
        if not isinstance(answer, list):
            raise self._unexpected()
        return [_summary(entry) for entry in map(_mapping, answer) if entry.get("Id")]

    async def inspect(self, container_id: str) -> ContainerDetails:
        answer = _mapping(await self._get(f"/containers/{quote(container_id, safe='')}/json"))
        state, host_config = _mapping(answer.get("State")), _mapping(answer.get("HostConfig"))
        status = str(state.get("Status", ""))
        return ContainerDetails(
            id=str(answer.get("Id", "")),
            name=str(answer.get("Name", "")).removeprefix("/"),
            pid=_integer(state.get("Pid")),
            state="paused" if state.get("Paused") is True else status,
            network_mode=str(host_config.get("NetworkMode", "")),
        )

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[DockerEvent]]:
        """`async with client.events() as stream`: once inside, no event is missed, so list *then*. The stream ends with Docker."""
        filters = quote(json.dumps({"type": ["container"], "event": list(EVENTS)}))
        async with self._ask(f"/events?filters={filters}", endless=True) as response:
            yield self._read_events(response)

    async def _read_events(self, response: aiohttp.ClientResponse) -> AsyncIterator[DockerEvent]:
        pending = b""
        with self._failures():
            async for piece in response.content.iter_any():
                *lines, pending = (pending + piece).split(b"\n")
                if len(pending) > MAX_EVENT:
                    raise self._unexpected()
                for line in lines:
                    event = _event(line)
                    if event is not None:
                        yield event

    async def _get(self, path: str) -> Any:
        async with self._ask(path) as response:
            with self._failures():
                body = await _read_bounded(response)
        if body is None:
            raise UserError(f"Docker at {self.host} answers with more than {MAX_RESPONSE >> 20} MiB")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise self._unexpected() from None

    @contextlib.asynccontextmanager
    async def _ask(self, path: str, *, endless: bool = False) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=None if endless else self._timeout, connect=self._timeout)
        with self._failures():
            async with asyncio.timeout(self._timeout):  # until the answer begins
                response = await self._session.get(self._base + path, timeout=timeout)
        async with response:
            if response.status == 404:
                raise UserError("no such container; it was removed meanwhile")
            if response.status != 200:
                raise UserError(f"Docker at {self.host} answers with status {response.status}")
            yield response

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise UserError(f"Docker does not answer at {self.host} within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UserError:
        cause = getattr(error, "os_error", error)
        if isinstance(cause, PermissionError):
            return UserError(f"Docker does not answer at {self.host}: permission denied; run meshd as root")
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return UserError(
                f"Docker does not answer at {self.host}: it does not run there",
                hint="start it, or set DOCKER_HOST; without Docker use pid:N or netns:NAME",
            )
        return UserError(f"Docker does not answer at {self.host}: {cause}")

    def _unexpected(self) -> UserError:
        return UserError(f"what answers at {self.host} is not Docker's API")


def _connector(host: str) -> tuple[str, aiohttp.BaseConnector]:
    scheme, separator, rest = host.partition("://")
    if separator and scheme == "unix" and rest.startswith("/"):
        return "http://docker", aiohttp.UnixConnector(path=rest)
    if separator and scheme in ("tcp", "http") and _is_authority(rest.strip("/")):
        return f"http://{rest.rstrip('/')}", aiohttp.TCPConnector()
    raise UserError(f"DOCKER_HOST={host} is not supported", hint="set it to unix:///PATH or tcp://HOST:PORT")


def _is_authority(text: str) -> bool:
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or a bracket without its other
        return False


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes | None:
    body = bytearray()
    async for piece in response.content.iter_chunked(_PIECE):
        body += piece
        if len(body) > MAX_RESPONSE:
            return None
    return bytes(body)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _summary(entry: Mapping[str, Any]) -> ContainerSummary:
    names = entry.get("Names") or ()
    plain = (str(name).removeprefix("/") for name in names)
    return ContainerSummary(
        id=str(entry["Id"]),
        names=tuple(name for name in plain if "/" not in name),  # "/other/alias" is a legacy link
        state=str(entry.get("State", "")),
    )


def _event(line: bytes) -> DockerEvent | None:
    """One line of the stream; None for what we did not ask for or cannot read."""
    try:
        entry = _mapping(json.loads(line))
    except (ValueError, RecursionError):
        return None
    actor = _mapping(entry.get("Actor"))
    if entry.get("Action") not in EVENTS or not actor.get("ID"):
        return None
    return DockerEvent(
        action=str(entry["Action"]),
        id=str(actor["ID"]),
        name=str(_mapping(actor.get("Attributes")).get("name", "")),
        time_ns=_integer(entry.get("timeNano")),
    )
