"""The router's process with a router that is played here: exit statuses, signals, the answer to whoever waits, the log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshd.config import LaunchOptions, Paths
from meshd.daemon import run as module
from meshd.daemon.options import write_options
from meshd.daemon.run import configure_logging, main, run_router
from meshd.daemon.supervise import EXIT_REFUSED, EXIT_STOPPED
from meshd.errors import UserError

SIGNALLED = 75


class StubRouter:
    made: ClassVar[list[StubRouter]] = []
    in_start: ClassVar[Callable[[StubRouter], None]] = lambda router: None
    when_ready: ClassVar[Callable[[StubRouter], None]] = lambda router: router.stop()

    def __init__(self, options: LaunchOptions, paths: Paths, stop: Callable[[], None], *, restarted: bool) -> None:
        self.options, self.paths, self.restarted = options, paths, restarted
        self.stop: Callable[[], None] = stop
        self.closed = 0
        self.made.append(self)

    async def start(self) -> None:
        type(self).in_start(self)
        asyncio.get_running_loop().call_soon(lambda: type(self).when_ready(self))

    def ready_answer(self) -> dict[str, object]:
        return {"name": "4a:0f:f6:ec:1c:93"}

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=tmp_path, state=tmp_path)


@pytest.fixture(autouse=True)
def router(monkeypatch: pytest.MonkeyPatch) -> type[StubRouter]:
    class Router(StubRouter):
        made: ClassVar[list[StubRouter]] = []

    monkeypatch.setattr(module, "Router", Router)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    return Router


def answered(ready: int) -> dict[str, Any] | None:
    """The line that was given, and then the end of file: the descriptor was closed."""
    data = os.read(ready, 65536)
    assert data == b"" or os.read(ready, 1) == b""
    os.close(ready)
    return json.loads(data) if data else None


def test_told_to_stop(paths: Paths, router: type[StubRouter]) -> None:
    ready, given = os.pipe()
    assert run_router(LaunchOptions(), paths, given) == EXIT_STOPPED
    assert answered(ready) == {"ready": {"name": "4a:0f:f6:ec:1c:93"}}
    (made,) = router.made
    assert (made.closed, made.restarted) == (1, False)
    assert not paths.pid_file.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_an_orderly_end_and_no_stop(paths: Paths, router: type[StubRouter], number: signal.Signals) -> None:
    router.when_ready = lambda router: os.kill(os.getpid(), number)
    assert run_router(LaunchOptions(), paths) == SIGNALLED
    assert router.made[0].closed == 1


def test_a_signal_while_it_starts_ends_it_as_soon_as_it_has(paths: Paths, router: type[StubRouter]) -> None:
    router.in_start = lambda router: os.kill(os.getpid(), signal.SIGTERM)
    router.when_ready = lambda router: None
    assert run_router(LaunchOptions(), paths) == SIGNALLED
    assert router.made[0].closed == 1


def test_a_stop_after_a_signal_changes_nothing(paths: Paths, router: type[StubRouter]) -> None:
    def both(router: StubRouter) -> None:
        router.stop()
        router.stop()
        os.kill(os.getpid(), signal.SIGTERM)

    router.when_ready = both
    assert run_router(LaunchOptions(), paths) == EXIT_STOPPED


def test_a_refusal_is_answered_and_logged(
    paths: Paths, router: type[StubRouter], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_router: StubRouter) -> None:
        raise UserError("UDP port 6783 is taken", hint="use --port")

    router.in_start = refuse
    ready, given = os.pipe()
    assert run_router(LaunchOptions(), paths, given) == EXIT_REFUSED
    assert answered(ready) == {"error": "UDP port 6783 is taken", "hint": "use --port"}
    assert "UDP port 6783 is taken; use --port" in caplog.text
    assert not paths.pid_file.exists()


def test_a_bug_is_no_refusal(paths: Paths, router: type[StubRouter]) -> None:
    def fail(_router: StubRouter) -> None:
        raise ZeroDivisionError

    router.in_start = fail
    with pytest.raises(ZeroDivisionError):
        run_router(LaunchOptions(), paths)
    assert router.made[0].closed == 1


def test_nobody_waits_any_more(paths: Paths, router: type[StubRouter]) -> None:
    ready, given = os.pipe()
    os.close(ready)
    assert run_router(LaunchOptions(), paths, given) == EXIT_STOPPED


@pytest.mark.parametrize("abstract", [True, False])
def test_the_service_manager_is_told(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abstract: bool
) -> None:
    address = f"\0meshd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        assert run_router(LaunchOptions(), paths) == EXIT_STOPPED
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_a_service_manager_that_is_gone_is_no_matter(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    assert run_router(LaunchOptions(), paths) == EXIT_STOPPED


# ── main


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path | None]]:
    """How logging was set up, without doing it to the tests' own."""
    configured: list[tuple[str, Path | None]] = []
    monkeypatch.setattr(module, "configure_logging", lambda level, file=None: configured.append((level, file)))
    return configured


def test_main_reads_options_and_folder(
    paths: Paths, router: type[StubRouter], logs: list[tuple[str, Path | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHD_DIR", str(paths.state))
    write_options(paths.run, LaunchOptions(port=7000, log_level="debug"))
    ready, given = os.pipe()
    assert main([str(paths.run), str(given)]) == EXIT_STOPPED
    assert answered(ready) is not None
    assert main([str(paths.run), "-1"]) == EXIT_STOPPED
    assert [made.restarted for made in router.made] == [False, True]
    assert router.made[0].options.port == 7000
    assert router.made[0].paths == paths
    assert logs == [("debug", paths.log)] * 2


@pytest.mark.parametrize("waits", [True, False])
def test_main_without_options_refuses_and_says_so(
    paths: Paths,
    router: type[StubRouter],
    logs: list[tuple[str, Path | None]],
    caplog: pytest.LogCaptureFixture,
    waits: bool,
) -> None:
    ready, given = os.pipe() if waits else (-1, -1)
    assert main([str(paths.run), str(given)]) == EXIT_REFUSED
    if waits:
        answer = answered(ready)
        assert answer is not None
        assert "cannot be read" in answer["error"]
    assert router.made == []
    assert logs == [("info", paths.log)]
    assert "cannot be read" in caplog.text


# ── the log


def test_the_log_is_private_also_after_it_was_full(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_LOG_BYTES", 1000)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in a process of its own
    monkeypatch.setattr(root, "level", logging.WARNING)
    before = os.umask(0)
    try:
        configure_logging("info", paths.log)
        for number in range(30):
            logging.getLogger("meshd").info("line %d of a log that fills up", number)
    finally:
        os.umask(before)
    old = paths.log.with_name("meshd.log.1")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (paths.log, old)} == {0o600}
    assert "line 29" in paths.log.read_text()
    assert old.stat().st_size <= 1000
    assert sorted(entry.name for entry in paths.run.iterdir()) == ["meshd.log", "meshd.log.1"]
    for handler in root.handlers:
        handler.close()


def test_a_traceback_goes_into_the_log_of_today(paths: Paths) -> None:
    """The router's standard error is its log. When that is full, what follows belongs into the new one."""
    program = (
        "import logging, sys\nfrom pathlib import Path\nfrom meshd.daemon import run\n"
        "run.MAX_LOG_BYTES = 1000\nrun.configure_logging('info', Path(sys.argv[1]))\n"
        "for number in range(50): logging.getLogger('meshd').info('line %d', number)\n"
        "raise RuntimeError('the end')\n"
    )
    with paths.log.open("a") as log:
        done = subprocess.run([sys.executable, "-c", program, paths.log], stdout=log, stderr=log, check=False)
    assert done.returncode == 1
    assert "line 49" in paths.log.read_text()
    assert "RuntimeError: the end" in paths.log.read_text()


def test_a_pid_file_that_cannot_be_written_is_no_reason_to_have_no_router(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    paths.pid_file.mkdir()
    assert run_router(LaunchOptions(), paths) == EXIT_STOPPED
    assert f"cannot write {paths.pid_file}" in caplog.text


def test_an_unknown_level_is_info(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    configure_logging("loud")
    assert root.level == logging.INFO
