"""`stop` and `reset`: with no router, one that answers, one that does not, and what they may not touch."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshd.config import DEFAULT_BRIDGE, Paths
from meshd.daemon import lifecycle, stopping
from meshd.daemon.lifecycle import reset
from meshd.daemon.state import State
from meshd.daemon.stopping import stop
from meshd.daemon.supervise import lock_is_free, take_lock
from meshd.errors import UserError

SILENT = "signal.pause()"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    folder = tmp_path / "meshd"
    folder.mkdir()
    return Paths(run=folder, state=folder)


class Control:
    """In the place of the control client: what the router answers, if it does."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[], None] = self.silent

    def __call__(self, _path: Path, timeout: float) -> Control:
        return self

    @staticmethod
    def silent() -> None:
        raise UserError("meshd does not answer")

    def stop(self) -> None:
        self.asked.append("stop")
        self.answer()

    def version(self) -> None:
        self.asked.append("version")
        self.answer()


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Control:
    control = Control()
    for module in (lifecycle, stopping):
        monkeypatch.setattr(module, "ControlClient", control)
    for name in ("STOP_TIMEOUT_S", "TERM_TIMEOUT_S"):
        monkeypatch.setattr(stopping, name, 0.5)
    return control


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bridges whose devices were removed."""
    bridges: list[str] = []
    monkeypatch.setattr(lifecycle, "_remove_devices", bridges.append)
    return bridges


@pytest.fixture
def router(paths: Paths) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a program that holds the lock as a router does."""
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str) -> subprocess.Popen[bytes]:
        lock = take_lock(paths.lock)
        assert lock is not None
        up, told = os.pipe()
        lead = f"import os, signal, time\nos.write({told}, b'up'); os.close({told})\n"
        if program == STUBBORN:
            lead = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + lead
        process = subprocess.Popen([sys.executable, "-S", "-E", "-c", lead + program], pass_fds=[lock, told])
        os.close(lock)
        os.close(told)
        assert os.read(up, 2) == b"up"
        os.close(up)
        paths.pid_file.write_text(f"{process.pid}\n")
        paths.socket.touch()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


# ── stop


def test_no_router_no_stop(paths: Paths, control: Control) -> None:
    assert not stop(paths)
    assert (control.asked, list(paths.run.iterdir())) == ([], [])


def test_what_a_killed_router_left_is_removed(paths: Paths, control: Control) -> None:
    for name in ("meshd.pid", "supervisor.pid", "meshd.sock", "meshd.lock", "meshd.log"):
        (paths.run / name).touch()
    assert not stop(paths)
    assert [entry.name for entry in paths.run.iterdir()] == ["meshd.log"]


@pytest.fixture
def successor(
    monkeypatch: pytest.MonkeyPatch, router: Callable[[str], subprocess.Popen[bytes]]
) -> list[subprocess.Popen[bytes]]:
    """A service manager starts another router as soon as the lock is seen free."""
    started: list[subprocess.Popen[bytes]] = []

    def look(lock: Path) -> bool:
        free = lock_is_free(lock)
        if free and not started:
            started.append(router(SILENT))
        return free

    monkeypatch.setattr(stopping, "lock_is_free", look)
    return started


def test_the_files_of_a_router_that_was_started_meanwhile_stay(
    paths: Paths,
    control: Control,
    router: Callable[[str], subprocess.Popen[bytes]],
    successor: list[subprocess.Popen[bytes]],
) -> None:
    control.answer = router(SILENT).kill
    assert stop(paths)
    assert successor[0].poll() is None
    assert {entry.name for entry in paths.run.iterdir()} == {"meshd.lock", "meshd.pid", "meshd.sock"}


def test_a_router_that_answers_is_waited_for(
    paths: Paths, control: Control, router: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = router(SILENT)
    paths.log.write_text("kept")
    control.answer = process.kill  # as a router that ends by itself
    assert stop(paths)
    assert [entry.name for entry in paths.run.iterdir()] == ["meshd.log"]


@pytest.mark.parametrize(("program", "number"), [(SILENT, signal.SIGTERM), (STUBBORN, signal.SIGKILL)])
@pytest.mark.parametrize("answers", [True, False])
def test_a_router_that_does_not_end_is_ended(
    paths: Paths,
    control: Control,
    router: Callable[[str], subprocess.Popen[bytes]],
    program: str,
    number: signal.Signals,
    answers: bool,
) -> None:
    process = router(program)
    control.answer = (lambda: None) if answers else Control.silent
    assert stop(paths)
    assert process.wait(10) == -number
    assert lock_is_free(paths.lock)
    assert list(paths.run.iterdir()) == []


def test_a_wait_is_told(
    paths: Paths,
    control: Control,
    router: Callable[[str], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The router ends when the user has been told, and not before."""
    told = threading.Event()
    process = router(SILENT)
    monkeypatch.setattr(stopping, "PROGRESS_AFTER_S", 0.01)

    def answer() -> None:
        assert told.wait(10)
        process.kill()

    control.answer = answer
    lines: list[str] = []

    def tell(text: str) -> None:
        lines.append(text)
        told.set()

    assert stop(paths, tell)
    assert lines == ["waiting for the router to end …"]


def test_supervisor_and_router_are_ended_together(
    paths: Paths, control: Control, router: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    router("import sys\nif os.fork(): os.wait()\nelse: signal.pause()")
    assert stop(paths)
    assert lock_is_free(paths.lock)


def test_a_stranger_under_an_old_number_is_not_harmed(
    paths: Paths, control: Control, router: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """The supervisor was killed and its pid file stayed; the pid is another process' by now."""
    router(SILENT)
    stranger = subprocess.Popen(["sleep", "60"])
    paths.supervisor_pid_file.write_text(f"{stranger.pid}\n")
    paths.pid_file.write_text("nonsense")
    assert stop(paths)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_router_that_cannot_be_ended(paths: Paths, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = take_lock(paths.lock)
    assert lock is not None
    monkeypatch.setattr(stopping, "TERM_TIMEOUT_S", 0.0)
    monkeypatch.setattr(stopping, "KILL_TIMEOUT_S", 0.0)
    with pytest.raises(UserError, match="does not end"):
        stop(paths)  # this process holds the lock, and does not end itself
    assert paths.lock.exists()
    os.close(lock)


# ── reset


def used(paths: Paths, *bridges: str) -> None:
    state = State(paths.database)
    for bridge in bridges or ("mesh1",):
        state.add_bridge(bridge)
    state.close()
    paths.key_file.write_text("mk1-…")
    paths.identity_file.write_bytes(b"x")
    for name in ("launch.json", "meshd.log", "meshd.log.1", "meshd.pid", "supervisor.pid", "meshd.sock", "meshd.lock"):
        (paths.run / name).touch()


def test_reset_removes_every_trace(paths: Paths, control: Control, removed: list[str], tmp_path: Path) -> None:
    used(paths)
    assert reset(paths)
    assert removed == ["mesh1"]
    assert list(tmp_path.iterdir()) == []


def test_reset_removes_what_is_on_former_bridges_too(paths: Paths, control: Control, removed: list[str]) -> None:
    used(paths, "meshd", "br0")
    assert reset(paths)
    assert removed == ["meshd", "br0"]


def test_reset_of_nothing(paths: Paths, control: Control, removed: list[str]) -> None:
    assert not reset(paths)
    assert removed == []


def test_reset_of_a_key_that_cannot_be_removed_is_none(
    paths: Paths, control: Control, removed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that is mounted read-only, an immutable file."""
    used(paths)
    real = os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if Path(path).name == paths.key_file.name:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(OSError, match="Read-only file system"):
        reset(paths)
    monkeypatch.undo()
    assert paths.key_file.exists()


def test_reset_empties_a_folder_that_lies_elsewhere(
    paths: Paths, control: Control, removed: list[str], tmp_path: Path
) -> None:
    used(paths)
    paths.db.rename(tmp_path / "elsewhere")
    paths.db.symlink_to(tmp_path / "elsewhere")
    (paths.db / "folder").mkdir()
    assert reset(paths)
    assert removed == ["mesh1"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_reset_leaves_what_is_not_ours(paths: Paths, control: Control, removed: list[str]) -> None:
    used(paths)
    (paths.run / "notes.txt").write_text("the user's own")
    assert reset(paths)
    assert [entry.name for entry in paths.run.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("damage", [b"no database at all", b""])
def test_reset_of_a_damaged_state(paths: Paths, control: Control, removed: list[str], damage: bytes) -> None:
    used(paths)
    paths.database.write_bytes(damage)
    assert reset(paths)
    assert removed in ([DEFAULT_BRIDGE], [])
    assert not paths.db.exists()


def test_reset_of_a_newer_state(paths: Paths, control: Control, removed: list[str]) -> None:
    used(paths)
    state = State(paths.database)
    state._connection.execute("PRAGMA user_version=99")
    state.close()
    assert reset(paths)
    assert removed == [DEFAULT_BRIDGE]


def test_reset_stops_a_router_that_answers(
    paths: Paths, control: Control, removed: list[str], router: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    used(paths)
    process = router(SILENT)
    control.answer = lambda: process.kill() if control.asked[-1] == "stop" else None
    assert reset(paths)
    assert control.asked == ["version", "stop"]
    assert not paths.run.exists()


def test_reset_takes_nothing_from_a_router_that_was_started_meanwhile(
    paths: Paths,
    control: Control,
    removed: list[str],
    router: Callable[[str], subprocess.Popen[bytes]],
    successor: list[subprocess.Popen[bytes]],
) -> None:
    used(paths)
    process = router(SILENT)
    control.answer = lambda: process.kill() if control.asked[-1] == "stop" else None
    with pytest.raises(UserError, match="another router was started here meanwhile; stop what starts it"):
        reset(paths)
    assert successor[0].poll() is None
    assert removed == []
    assert paths.key_file.exists()


def test_reset_of_a_router_that_does_not_answer_needs_force(
    paths: Paths, control: Control, removed: list[str], router: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    used(paths)
    process = router(SILENT)
    with pytest.raises(UserError, match=r"does not answer .*; `meshd reset --force` ends it"):
        reset(paths)
    assert process.poll() is None
    assert paths.key_file.exists()
    assert reset(paths, force=True)
    assert process.wait(10) == -signal.SIGTERM
    assert not paths.run.exists()


def test_reset_keeps_everything_where_devices_cannot_be_removed(
    paths: Paths, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(paths)

    class Netlink:
        def call_sync(self, _fn: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        def close(self) -> None:
            pass

    monkeypatch.setattr(lifecycle, "Netlink", Netlink)
    with pytest.raises(UserError, match="operation not permitted"):
        reset(paths)
    assert paths.key_file.exists()


def test_to_stop_loads_nothing_of_a_router() -> None:
    """0.3 s of imports would be most of the time that it takes."""
    code = "import sys, meshd.daemon.stopping; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"pyroute2", "asyncio", "aiohttp", "cryptography", "sqlite3"} & set(loaded)
