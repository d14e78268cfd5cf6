"""The client where no router is, or a strange one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.control.client import ControlClient
from meshd.control.limits import EXIT_NOT_RUNNING
from meshd.errors import UserError

NOT_RUNNING = "meshd is not running; start it with: meshd launch"


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A server that gives this answer to one client, whatever it asks, and closes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def error_of(path: Path, timeout: float = 10.0) -> UserError:
    with pytest.raises(UserError) as caught:
        ControlClient(path, timeout).status()
    return caught.value


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_no_socket_and_no_folder_mean_not_running(tmp_path: Path) -> None:
    for path in (tmp_path / "meshd.sock", tmp_path / "no" / "meshd.sock", tmp_path / "file" / "meshd.sock"):
        (tmp_path / "file").touch()
        error = error_of(path)
        assert (str(error), error.status) == (NOT_RUNNING, EXIT_NOT_RUNNING)
        assert ControlClient(path).ready() is False


def test_a_dead_routers_socket_means_not_running(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert str(error_of(path)) == NOT_RUNNING


def test_no_permission_says_run_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run as root, whom no mode stops: the kernel's refusal is played."""

    def refuse(_sock: socket.socket, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    class Refused(socket.socket):
        connect = refuse

    monkeypatch.setattr(socket, "socket", Refused)
    assert str(error_of(tmp_path / "meshd.sock")) == f"no permission to use {tmp_path}/meshd.sock; run as root"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            http(b'{"a":' + b"[" * 50_000),
            "meshd gave an answer that is not JSON (HTTP 200); is it the same version as this command?",
        ),
        (b"", "meshd closed the connection before it answered; it is ending or busy, see its log"),
        (
            b"not http at all\r\n\r\n",
            "meshd closed the connection before it answered; it is ending or busy, see its log",
        ),
        (
            http(b"<html>"),
            "meshd gave an answer that is not JSON (HTTP 200); is it the same version as this command?",
        ),
        (
            http(b"{}")[:-1],
            "meshd gave an answer that is not JSON (HTTP 200); is it the same version as this command?",
        ),
        (http(b"[]"), "meshd gave an answer that is not JSON (HTTP 200); is it the same version as this command?"),
        (http(b"{}", "503 Busy"), "meshd answered HTTP 503"),
        (http(b'{"error": "no", "hint": "yes", "status": 9999}', "400 Bad"), "no; yes"),
    ],
)
def test_strange_answers_are_one_line(tmp_path: Path, answer: bytes, message: str) -> None:
    path = tmp_path / "meshd.sock"
    with answering(path, answer):
        error = error_of(path)
    assert str(error) == message
    assert 0 < error.status < 256


def test_a_router_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(1)
        assert str(error_of(path, timeout=0.05)).startswith("meshd does not answer (waited 0 s)")


def test_the_client_imports_nothing_heavy() -> None:
    code = "import sys, meshd.control.client, meshd.control.render; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "aiohttp", "click", "rich", "cryptography", "pyroute2"} & set(loaded)


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    with answering(folder / "meshd.sock", http(b'{"Ready": true}')):
        assert ControlClient(folder / "meshd.sock").status() == {"Ready": True}
