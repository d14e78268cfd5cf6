"""The Docker client against a server of our own on a unix socket: what it reads, and every way of not being answered."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from meshd.capture import docker
from meshd.capture.docker import DockerClient
from meshd.errors import UserError

ID = "ab12" + "0" * 60
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Body = Callable[[DockerClient], Awaitable[None]]


def with_docker(folder: Path, routes: dict[str, Handler], body: Body, timeout: float = 5.0) -> None:
    async def main() -> None:
        app = web.Application()
        app.add_routes([web.get(path, handler) for path, handler in routes.items()])
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        path = folder / "docker.sock"
        await web.UnixSite(runner, str(path)).start()
        client = DockerClient(f"unix://{path}", timeout=timeout)
        try:
            await body(client)
        finally:
            await client.close()
            await runner.cleanup()

    asyncio.run(main())


def answer(value: object, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        text = value if isinstance(value, str) else json.dumps(value)
        return web.Response(text=text, status=status)

    return handler


def test_list_inspect_version(tmp_path: Path) -> None:
    async def body(client: DockerClient) -> None:
        assert await client.version() == "20.10.24"
        (found,) = await client.list_containers()
        assert (found.id, found.names, found.state) == (ID, ("web",), "running")
        details = await client.inspect(ID)
        assert (details.id, details.name, details.pid) == (ID, "web", 4711)
        assert (details.state, details.network_mode) == ("running", "bridge")

    routes = {
        "/version": answer({"Version": "20.10.24", "ApiVersion": "1.41"}),
        "/containers/json": answer([{"Id": ID, "Names": ["/web", "/other/alias"], "State": "running"}, {"no": "id"}]),
        f"/containers/{ID}/json": answer(
            {
                "Id": ID,
                "Name": "/web",
                "State": {"Status": "running", "Paused": False, "Pid": 4711},
                "HostConfig": {"NetworkMode": "bridge"},
            }
        ),
    }
    with_docker(tmp_path, routes, body)


@pytest.mark.parametrize("value", [{}, [], None, 7, {"State": 3, "HostConfig": [], "Name": None}])
def test_inspect_takes_nothing_for_granted(tmp_path: Path, value: object) -> None:
    async def body(client: DockerClient) -> None:
        details = await client.inspect("x/../y")
        assert (details.pid, details.state) == (0, "")

    with_docker(tmp_path, {"/containers/{id}/json": answer(value)}, body)


def test_paused_is_a_state(tmp_path: Path) -> None:
    async def body(client: DockerClient) -> None:
        assert (await client.inspect("x")).state == "paused"

    with_docker(tmp_path, {"/containers/x/json": answer({"State": {"Status": "running", "Paused": True}})}, body)


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (answer("{"), "not Docker's API"),
        (answer("[" * 100_000), "not Docker's API"),
        (answer({"message": "boom"}), "not Docker's API"),  # a list was asked for
        (answer("", status=500), "answers with status 500"),
        (answer("", status=404), "no such container"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, handler: Handler, text: str) -> None:
    async def body(client: DockerClient) -> None:
        with pytest.raises(UserError, match=text):
            await client.list_containers()

    with_docker(tmp_path, {"/containers/json": handler}, body)


def test_answer_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "MAX_RESPONSE", 1000)

    async def body(client: DockerClient) -> None:
        with pytest.raises(UserError, match="answers with more than"):
            await client.list_containers()

    with_docker(tmp_path, {"/containers/json": answer("[" + " " * 2000)}, body)


def test_silence(tmp_path: Path) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def body(client: DockerClient) -> None:
        with pytest.raises(UserError, match=r"does not answer at unix://.* within"):
            await client.version()
        with pytest.raises(UserError, match="within"):
            async with client.events():
                pass

    with_docker(tmp_path, {"/version": silent, "/events": silent}, body, timeout=0.05)


def refuse(host: str, text: str) -> None:
    async def main() -> None:
        client = DockerClient(host)
        try:
            with pytest.raises(UserError, match=text):
                await client.version()
        finally:
            await client.close()

    asyncio.run(main())


def test_nobody_there(tmp_path: Path) -> None:
    refuse(f"unix://{tmp_path}/none.sock", "Docker does not answer at unix://.*none.sock.*DOCKER_HOST")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/dead.sock")
    refuse(f"unix://{tmp_path}/dead.sock", "does not run there")


@pytest.mark.parametrize(
    "host",
    [
        *("ssh://somewhere", "unix://", "unix://relative", "tcp://", "nonsense", "npipe:////./x"),
        *("tcp://10.0.0.1:99999", "tcp://10.0.0.1:0", "tcp://host:port", "tcp://[::1", "tcp://:2375"),
    ],
)
def test_hosts_that_are_not_supported(host: str) -> None:
    async def main() -> None:
        with pytest.raises(UserError, match=r"DOCKER_HOST=.*unix:///PATH or tcp://HOST:PORT"):
            DockerClient(host)

    asyncio.run(main())


def test_host_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def host() -> str:
        client = DockerClient()
        await client.close()
        return client.host

    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert asyncio.run(host()) == "tcp://127.0.0.1:2375"
    monkeypatch.delenv("DOCKER_HOST")
    assert asyncio.run(host()) == "unix:///var/run/docker.sock"


def event(action: str, container: str = ID) -> bytes:
    actor = {"ID": container, "Attributes": {"name": "web"}}
    return json.dumps({"Type": "container", "Action": action, "Actor": actor, "timeNano": 5}).encode() + b"\n"


def test_events_arrive_in_any_pieces_until_docker_ends(tmp_path: Path) -> None:
    asked: list[str] = []
    stream = (
        event("start") + b"not json\n[]\n" + event("exec_start") + event("die") + event("rename") + event("destroy")
    )

    async def events(request: web.Request) -> web.StreamResponse:
        asked.append(request.query["filters"])
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(stream), 7):
            await response.write(stream[start : start + 7])
        return response

    async def body(client: DockerClient) -> None:
        async with client.events() as received:
            seen = [(entry.action, entry.id, entry.name, entry.time_ns) async for entry in received]
        assert seen == [(action, ID, "web", 5) for action in ("start", "die", "rename", "destroy")]

    with_docker(tmp_path, {"/events": events}, body)
    assert json.loads(asked[0])["type"] == ["container"]


def test_event_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "MAX_EVENT", 1000)

    async def body(client: DockerClient) -> None:
        async with client.events() as received:
            with pytest.raises(UserError, match="not Docker's API"):
                _ = [entry async for entry in received]

    with_docker(tmp_path, {"/events": answer("x" * 5000)}, body)
