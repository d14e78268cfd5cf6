"""Server and client over a real socket: every request, every refusal, and what a client that is not ours may send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from meshd.control import limits, server
from meshd.control.api import AttachRequest, DetachRequest
from meshd.control.client import ControlClient
from meshd.errors import UserError
from tests.control.fake import MAC, FakeHandlers, running
from tests.control.samples import CONTAINER_ID

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meshd.sock"


@pytest.fixture
def handlers() -> FakeHandlers:
    return FakeHandlers()


@pytest.fixture
def client(path: Path, handlers: FakeHandlers) -> Iterator[ControlClient]:
    with running(path, handlers):
        yield ControlClient(path)


def raw(path: Path, request: bytes) -> tuple[int, dict[str, object]]:
    """What the server answers to these bytes: the HTTP status and the JSON body."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else {}


def post(path: Path, where: str, body: bytes) -> tuple[int, dict[str, object]]:
    head = f"POST {where} HTTP/1.1\r\nHost: meshd\r\nContent-Length: {len(body)}\r\n\r\n"
    return raw(path, head.encode() + body)


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_every_query_is_answered(path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with running(path, FakeHandlers(), new_loop):
        client = ControlClient(path)
        assert client.ready() is True
        assert client.version() == {"version": "0.1.0", "pid": 4242}
        assert client.status()["Version"] == "0.1.0"
        assert set(client.ps()) == {"Bridge", "Attachments"}
    assert not path.exists()


def test_ps_is_that_part_of_the_report_and_asks_for_no_more(handlers: FakeHandlers, client: ControlClient) -> None:
    shown = client.ps()
    assert (handlers.views, handlers.refreshed) == (0, 1)
    report = client.status()
    assert shown == {name: report[name] for name in ("Bridge", "Attachments")}


def test_a_router_that_starts_is_not_ready_but_shows_itself(handlers: FakeHandlers, client: ControlClient) -> None:
    handlers.is_ready = False
    assert client.ready() is False
    assert client.status()["Ready"] is False


def test_commands_reach_the_router_as_they_were_given(handlers: FakeHandlers, client: ControlClient) -> None:
    client.connect(("host2", "10.0.0.3:99"), replace=True)
    client.connect((), replace=True)
    client.forget(("host2",))
    client.stop()
    assert handlers.calls == [
        ("connect", ("host2", "10.0.0.3:99"), True),
        ("connect", (), True),
        ("forget", ("host2",)),
        "stop",
    ]


def test_attach_and_detach_round_trip(handlers: FakeHandlers, client: ControlClient) -> None:
    result = client.attach("web", ("10.0.1.5/24", "fd00::5/64"), "eth1")
    assert (result.addresses, result.mac, result.id) == (("10.0.1.5/24", "fd00::5/64"), MAC, CONTAINER_ID)
    assert client.detach("web", ("10.0.1.5/24",)).addresses == ("10.0.1.5/24",)
    assert handlers.calls == [
        AttachRequest(container="web", addresses=("10.0.1.5/24", "fd00::5/64"), ifname="eth1"),
        DetachRequest(container="web", addresses=("10.0.1.5/24",)),
    ]


def test_a_users_mistake_comes_back_whole(path: Path) -> None:
    fail = UserError("container web is not running", hint="start it with: docker start web", status=4)
    with running(path, FakeHandlers(fail=fail)), pytest.raises(UserError) as caught:
        ControlClient(path).attach("web")
    assert (caught.value.args[0], caught.value.hint, caught.value.status) == (fail.args[0], fail.hint, 4)


def test_a_bug_is_one_line_for_the_user_and_a_traceback_for_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = KeyError("inner detail")
    with caplog.at_level(logging.ERROR), running(path, FakeHandlers(fail=secret)), pytest.raises(UserError) as caught:
        ControlClient(path).forget(("host2",))
    assert str(caught.value) == "internal error in the router (KeyError); this is a bug; its log has the traceback"
    assert caught.value.status == 70
    assert "Traceback" in caplog.text
    assert "inner detail" in caplog.text


BAD_BODIES = [
    ("/connect", b"", "the request's body is not JSON"),
    ("/connect", b"[1]", "the request's body is not a JSON object"),
    ("/connect", b"\xff", "the request's body is not JSON"),
    ("/connect", b"[" * 60000, "the request's body is not JSON"),
    ("/connect", b"{}", "no peer given"),
    ("/connect", b'{"peers": "host2"}', "'peers' must be a list of strings"),
    ("/connect", b'{"peers": [1]}', "'peers' must be a list of strings"),
    ("/connect", b'{"peers": ["a b"]}', "malformed peer 'a b'"),
    ("/connect", b'{"peers": ["a"], "replace": 1}', "'replace' must be true or false"),
    ("/connect", b'{"peers": ["a"], "repalce": true}', "unknown field 'repalce' in the request"),
    ("/connect", json.dumps({"peers": ["a"] * 257}).encode(), "too many peers: 257, at most 256 in one request"),
    ("/forget", b'{"peers": []}', "no peer given"),
    ("/attach", b"{}", "'container' must be a string"),
    ("/attach", b'{"container": " "}', "malformed container name"),
    ("/attach", b'{"container": "a\\u001b"}', "malformed container name"),
    ("/attach", b'{"container": "a", "addresses": ["10.0.0.1"]}', "address '10.0.0.1' has no prefix length"),
    ("/attach", b'{"container": "a", "ifname": "sixteen-letters!"}', "malformed interface name 'sixteen-letters!'"),
    ("/attach", b'{"container": "a", "ifname": ".."}', "malformed interface name '..'"),
    ("/attach", b'{"container": "a", "ifname": "a/b"}', "malformed interface name 'a/b'"),
    ("/attach", b'{"container": "a", "ifname": ""}', "malformed interface name ''"),
    ("/attach", b'{"container": "a", "ifname": 7}', "malformed interface name 7"),
    ("/detach", b'{"container": null}', "'container' must be a string"),
    ("/detach", b'{"container": "a", "ifname": "b"}', "unknown field 'ifname' in the request"),
]


def test_bad_requests_are_refused_before_the_router_hears_of_them(
    path: Path, handlers: FakeHandlers, client: ControlClient
) -> None:
    for where, body, message in BAD_BODIES:
        status, answer = post(path, where, body)
        assert status == 400, where
        assert str(answer["error"]).startswith(message)
    assert handlers.calls == []
    assert client.ready()


def test_equal_addresses_and_peers_count_once(path: Path, handlers: FakeHandlers, client: ControlClient) -> None:
    post(path, "/attach", b'{"container": "a", "addresses": ["ip:10.0.0.1/24", "10.0.0.1/24"]}')
    post(path, "/forget", b'{"peers": ["a", " a"]}')
    assert handlers.calls == [AttachRequest(container="a", addresses=("10.0.0.1/24",)), ("forget", ("a",))]


def test_what_is_not_there_and_what_is_too_long(path: Path, client: ControlClient) -> None:
    assert raw(path, b"GET /nothing HTTP/1.1\r\nHost: m\r\n\r\n")[0] == 404
    assert raw(path, b"GET /stop HTTP/1.1\r\nHost: m\r\n\r\n")[0] == 405
    status, answer = post(path, "/attach", b" " * (limits.MAX_BODY + 1))
    assert status == 413
    assert answer["error"] == "the request is longer than 65536 bytes"
    assert raw(path, b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n")[0] == 400
    assert raw(path, b"\x16\x03\x01garbage\r\n\r\n")[0] == 400
    assert client.ready()


def test_a_client_that_says_nothing_is_thrown_out(
    path: Path, handlers: FakeHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT_S", 0.05)
    half_requests = [b"", b"GET /status HT", b"POST /stop HTTP/1.1\r\nHost: m\r\nContent-Length: 9\r\n\r\n{"]
    with running(path, handlers):
        for request in half_requests:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(str(path))
                sock.sendall(request)
                with contextlib.suppress(ConnectionResetError):
                    assert b" 200 " not in sock.recv(4096)
        assert ControlClient(path).ready()
    assert handlers.calls == []


def test_more_clients_than_allowed_are_turned_away_and_room_comes_back(
    path: Path, handlers: FakeHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENTS", 2)
    with running(path, handlers), contextlib.ExitStack() as waiting:
        sockets = [waiting.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        for sock in sockets:
            sock.settimeout(20)
            sock.connect(str(path))
        with pytest.raises(UserError, match="closed the connection before it answered; it is ending or busy"):
            ControlClient(path).status()
        for sock in sockets:
            sock.sendall(b"GET /ready HTTP/1.1\r\nHost: m\r\n\r\n")
            while sock.recv(4096):
                pass
        assert ControlClient(path).ready()


def test_only_the_owner_may_open_the_socket(path: Path, client: ControlClient) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert client.ready()


def test_the_socket_of_a_dead_router_is_replaced(path: Path, handlers: FakeHandlers) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with running(path, handlers):
        assert ControlClient(path).ready()


def test_the_socket_of_a_live_router_is_not(path: Path, client: ControlClient) -> None:
    with pytest.raises(UserError, match="a router already runs on"), running(path, FakeHandlers()):
        pass
    assert client.ready()


def test_a_file_in_the_way_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(UserError, match="is in the way: it is not a socket"), running(path, FakeHandlers()):
        pass
    assert path.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 120)
    with pytest.raises(UserError, match="too long for a socket"), running(path, FakeHandlers()):
        pass
    with pytest.raises(UserError, match="too long for a socket; choose a shorter MESHD_DIR"):
        ControlClient(path).status()


def test_cleanup_leaves_the_socket_of_a_successor(path: Path, handlers: FakeHandlers) -> None:
    with running(path, handlers):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_the_bridges_mac_comes_from_the_kernel() -> None:
    assert server.interface_mac("lo") == "00:00:00:00:00:00"
    assert server.interface_mac("no-such-device") == ""
