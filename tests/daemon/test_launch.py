"""`launch` and `prepare`: the answer that is waited for, and that nothing is left of an attempt that failed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshd.config import LaunchOptions, Paths, Secret
from meshd.crypto.meshkey import MeshKey
from meshd.daemon import launch as launching
from meshd.daemon.launch import launch, prepare
from meshd.daemon.options import read_options
from meshd.daemon.stopping import stop
from meshd.daemon.supervise import lock_is_free, take_lock
from meshd.errors import UserError

KEY = MeshKey.generate(os.urandom).to_text()
READY = {
    "name": "4a:0f:f6:ec:1c:93",
    "nickname": "host1",
    "pid": 4242,
    "addresses": ["192.0.2.1"],
    "warnings": ["one from the router"],
}


_started: list[subprocess.Popen[bytes]] = []  # kept, or the interpreter complains that nobody waits for them


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launching, "check_launch", lambda options, paths: ("one from the checks",))
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=tmp_path / "run" / "meshd", state=tmp_path / "var" / "lib" / "meshd")


def tree(folder: Path) -> dict[str, bytes | int]:
    """Every file with its content, every folder with its mode."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else stat.S_IMODE(path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


# ── prepare


def test_prepare_and_undo_on_a_fresh_host(paths: Paths, tmp_path: Path) -> None:
    prepared = prepare(LaunchOptions(port=7000), paths)
    assert prepared.founded
    assert prepared.warnings == ("one from the checks",)
    assert take_lock(paths.lock) is None
    assert read_options(paths.run).port == 7000
    assert stat.S_IMODE(paths.run.stat().st_mode) == stat.S_IMODE(paths.db.stat().st_mode) == 0o700
    paths.identity_file.write_bytes(b"the router makes this")
    paths.database.write_bytes(b"and this")
    prepared.undo()
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "used"])
@pytest.mark.parametrize("failing", ["make_private_folder", "take_lock", "settle_key", "write_options"])
def test_every_failure_leaves_all_as_it_was(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, fresh: bool
) -> None:
    if not fresh:
        prepared = prepare(LaunchOptions(key=Secret(KEY), port=7000), paths)
        os.close(prepared.lock)
        paths.lock.unlink()
        paths.log.write_text("an older log")
    before = tree(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launching, failing, fail)
    with pytest.raises(OSError, match="No space"):
        prepare(LaunchOptions(), paths)
    monkeypatch.undo()
    assert tree(tmp_path) == before
    assert lock_is_free(paths.lock)


def test_undo_keeps_what_was_there_before(paths: Paths, tmp_path: Path) -> None:
    first = prepare(LaunchOptions(port=7000), paths)
    os.close(first.lock)
    paths.lock.unlink()
    paths.identity_file.write_bytes(b"identity")
    before = tree(tmp_path)
    second = prepare(LaunchOptions(port=8000), paths)
    assert not second.founded
    second.undo()
    assert tree(tmp_path) == before
    assert read_options(paths.run).port == 7000


def test_a_folder_of_the_users_own_stays_even_if_it_is_empty(tmp_path: Path) -> None:
    own = tmp_path / "mine"
    own.mkdir(mode=0o755)
    prepare(LaunchOptions(), Paths(run=own, state=own)).undo()
    assert tree(tmp_path) == {"mine": 0o755}


def test_a_second_router_in_the_folder_is_refused(paths: Paths, tmp_path: Path) -> None:
    prepared = prepare(LaunchOptions(), paths)
    paths.pid_file.write_text("4242\n")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"already running \(pid 4242\)"):
        prepare(LaunchOptions(port=9000), paths)
    assert tree(tmp_path) == before
    prepared.undo()


def test_another_key_than_the_stored_one_changes_nothing(paths: Paths, tmp_path: Path) -> None:
    prepared = prepare(LaunchOptions(), paths)
    os.close(prepared.lock)
    paths.lock.unlink()
    before = tree(tmp_path)
    with pytest.raises(UserError, match="another key"):
        prepare(LaunchOptions(key=Secret(KEY)), paths)
    assert tree(tmp_path) == before


# ── launch, with a small program in the supervisor's place


def play(monkeypatch: pytest.MonkeyPatch, program: str) -> list[list[str]]:
    """Start `program` instead of the supervisor; `lock` and `ready` are its descriptors. Returns what was asked for."""
    asked: list[list[str]] = []
    real = subprocess.Popen
    lead = "import json, os, signal, sys, time\nrun, lock, ready, mode = sys.argv[1:]\nlock, ready = int(lock), int(ready)\n"

    def start(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
        asked.append(argv)
        assert not {"MESHD_KEY", "MESHD_PASSWORD", "KEY"} & set(options["env"])
        process: subprocess.Popen[bytes] = real(
            [sys.executable, "-S", "-E", "-c", lead + program, *argv[3:]], **options
        )
        _started.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    return asked


def answer(message: dict[str, object]) -> str:
    line = json.dumps(message).encode() + b"\n"
    return f"os.write(ready, {line!r})\n"


def test_a_router_that_gets_ready(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHD_KEY", KEY)
    monkeypatch.setenv("KEY", KEY)
    asked = play(monkeypatch, answer({"ready": READY}) + "os.close(ready); time.sleep(60)")
    result = launch(LaunchOptions(port=7000, restart=False), paths)
    assert (result.name, result.nickname, result.pid) == ("4a:0f:f6:ec:1c:93", "host1", 4242)
    assert (result.port, result.addresses, result.founded) == (7000, ("192.0.2.1",), True)
    assert result.warnings == ("one from the checks", "one from the router")
    assert result.key_file == paths.key_file
    assert result.key.reveal() not in repr(result)
    assert asked[0][1:4] == ["-m", "meshd.daemon.supervise", str(paths.run)]
    assert asked[0][-1] == "once"
    assert all(KEY not in word for word in asked[0])
    assert stat.S_IMODE(paths.log.stat().st_mode) == 0o600
    assert read_options(paths.run).nickname  # the host's name where none was given
    assert take_lock(paths.lock) is None  # the supervisor holds it, and we do not
    assert stop(paths)
    assert lock_is_free(paths.lock)


def test_an_answer_in_pieces(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"ready": READY}).encode() + b"\n"
    play(monkeypatch, f"for byte in {line!r}: os.write(ready, bytes([byte]))\ntime.sleep(60)")
    assert launch(LaunchOptions(), paths).pid == 4242
    assert stop(paths)


def failure(paths: Paths, options: LaunchOptions | None = None) -> UserError:
    with pytest.raises(UserError) as refused:
        launch(options or LaunchOptions(), paths)
    return refused.value


def test_a_router_that_refuses(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, answer({"error": "UDP port 6783 is taken", "hint": "use --port"}) + "sys.exit(78)")
    error = failure(paths)
    assert (error.args[0], error.hint) == ("UDP port 6783 is taken", "use --port")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("death", ["sys.exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "os.write(ready, b'{half')"])
def test_a_router_that_dies_leaves_its_log_and_nothing_else(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    play(monkeypatch, f"print('the reason', file=sys.stderr, flush=True)\n{death}")
    error = failure(paths)
    assert error.args[0] == "the router died while starting"
    assert error.hint == f"see the end of {paths.log}"
    assert paths.log.read_text() == "the reason\n"
    assert stat.S_IMODE(paths.log.stat().st_mode) == 0o600
    assert tree(tmp_path) == {"run": tree(tmp_path)["run"], "run/meshd": 0o700, "run/meshd/meshd.log": b"the reason\n"}


def test_a_later_launch_after_a_death_begins_anew(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, "sys.exit(3)")
    failure(paths)
    monkeypatch.undo()
    monkeypatch.setattr(launching, "check_launch", lambda options, paths: ())
    play(monkeypatch, answer({"ready": READY}) + "time.sleep(60)")
    assert launch(LaunchOptions(), paths).founded
    assert stop(paths)


@pytest.mark.parametrize("habit", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"], ids=["ends", "stubborn"])
def test_a_router_that_says_nothing(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, habit: str) -> None:
    monkeypatch.setattr(launching, "READY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(launching, "END_TIMEOUT_S", 0.3)
    monkeypatch.setattr(launching, "PROGRESS_AFTER_S", 0.0)
    child = tmp_path / "child"
    play(
        monkeypatch,
        f"{habit}if os.fork() == 0: open({str(child)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)",
    )
    told: list[str] = []
    with pytest.raises(UserError, match="did not get ready within") as refused:
        launch(LaunchOptions(), paths, told.append)
    assert str(paths.log) in refused.value.hint
    assert told == ["waiting for the router to get ready …"]
    if habit:  # the whole session was ended: also what the supervisor had started
        assert not _lives(int(child.read_text()))
    else:
        os.kill(int(child.read_text()), 9)


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_an_interrupted_launch_ends_the_router(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, "signal.pause()")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_await_answer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(LaunchOptions(), paths)
    assert tree(tmp_path) == {}


def test_an_interrupt_while_the_process_is_made_ends_it(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the moment in which it is there and nobody has its number yet."""
    play(monkeypatch, "signal.pause()")
    monkeypatch.setattr(launching, "END_TIMEOUT_S", 5.0)
    real = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):  # instructions before which Python looks at signals
            pass
        return process

    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(subprocess, "Popen", interrupted)
        with pytest.raises(KeyboardInterrupt):
            launch(LaunchOptions(), paths)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, former)
    (process,) = _started
    assert process.returncode is not None
    assert tree(tmp_path) == {}


def test_no_descriptor_is_left_open(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    programs: list[tuple[str, Callable[[], object]]] = [
        ("sys.exit(3)", lambda: failure(paths)),
        (answer({"error": "no"}), lambda: failure(paths)),
        (answer({"ready": READY}) + "time.sleep(60)", lambda: (launch(LaunchOptions(), paths), stop(paths))),
    ]
    for program, run in programs:
        with monkeypatch.context() as patch:
            play(patch, program)
            run()
    assert count() == before
