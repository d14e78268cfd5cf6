"""The supervisor with small programs in the router's place: restarts, ends, signals, and the lock of the folder."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshd.daemon.supervise import (
    EXIT_REFUSED,
    EXIT_STOPPED,
    Supervisor,
    clear_lock,
    lock_is_free,
    main,
    take_lock,
)

DIES = 7


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = take_lock(tmp_path / "lock")
    assert descriptor is not None
    yield descriptor
    os.close(descriptor)


def script(tmp_path: Path, *lives: str) -> list[str]:
    """A program that does the first of `lives` at its first start, then the second …; the last one ever after."""
    path = tmp_path / "router.py"
    path.write_text(
        "import os, signal, sys, time\n"
        f"counter = {str(tmp_path / 'starts')!r}\n"
        "with open(counter, 'a') as file: file.write(sys.argv[-1] + '\\n')\n"
        "number = len(open(counter).readlines()) - 1\n"
        f"lives = {list(lives)!r}\n"
        "exec(lives[min(number, len(lives) - 1)])\n"
    )
    return [sys.executable, "-S", "-E", str(path)]


def starts(tmp_path: Path) -> list[str]:
    """The ready descriptor of each start."""
    return (tmp_path / "starts").read_text().split()


def supervisor(tmp_path: Path, lock: int, *lives: str, restart: bool = True) -> Supervisor:
    return Supervisor(script(tmp_path, *lives), lock, restart=restart, backoff_s=(0.0,))


KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("death", [f"sys.exit({DIES})", KILLED, "raise RuntimeError", "sys.exit(75)"])
def test_a_router_that_dies_is_started_again(tmp_path: Path, lock: int, death: str) -> None:
    assert supervisor(tmp_path, lock, death, death, f"sys.exit({EXIT_STOPPED})").supervise(-1) == EXIT_STOPPED
    assert starts(tmp_path) == ["-1", "-1", "-1"]


def test_a_router_that_was_stopped_stays_so(tmp_path: Path, lock: int) -> None:
    assert supervisor(tmp_path, lock, f"sys.exit({EXIT_STOPPED})").supervise(-1) == EXIT_STOPPED
    assert len(starts(tmp_path)) == 1


def test_a_refusal_ends_the_first_start_only(tmp_path: Path, lock: int) -> None:
    refuses = f"sys.exit({EXIT_REFUSED})"
    assert supervisor(tmp_path, lock, refuses).supervise(-1) == EXIT_REFUSED
    assert len(starts(tmp_path)) == 1
    (tmp_path / "starts").unlink()
    later = supervisor(tmp_path, lock, KILLED, refuses, refuses, f"sys.exit({EXIT_STOPPED})")
    assert later.supervise(-1) == EXIT_STOPPED
    assert len(starts(tmp_path)) == 4


@pytest.mark.parametrize(("death", "status"), [(f"sys.exit({DIES})", DIES), (KILLED, -signal.SIGKILL)])
def test_once_is_once(tmp_path: Path, lock: int, death: str, status: int) -> None:
    assert supervisor(tmp_path, lock, death, restart=False).supervise(-1) == status
    assert len(starts(tmp_path)) == 1


def test_the_first_router_alone_gets_the_ready_descriptor(tmp_path: Path, lock: int) -> None:
    ready, given = os.pipe()
    lives = ("os.write(int(sys.argv[-1]), b'here'); " + KILLED, f"sys.exit({EXIT_STOPPED})")
    assert supervisor(tmp_path, lock, *lives).supervise(given) == EXIT_STOPPED
    assert starts(tmp_path) == [str(given), "-1"]
    assert os.read(ready, 100) == b"here"
    assert os.read(ready, 100) == b""  # the router's death is the end of file: nobody else holds it
    os.close(ready)


def test_the_router_holds_the_lock_too(tmp_path: Path, lock: int) -> None:
    test = f"import fcntl; fcntl.fcntl({lock}, fcntl.F_GETFD); sys.exit({EXIT_STOPPED})"
    assert supervisor(tmp_path, lock, test).supervise(-1) == EXIT_STOPPED


def test_a_router_that_cannot_be_started_is_tried_again(tmp_path: Path, lock: int) -> None:
    command = script(tmp_path, f"sys.exit({EXIT_STOPPED})")
    missing = tmp_path / "python"

    class Later(Supervisor):
        def _sleep(self, seconds: float) -> None:
            missing.symlink_to(sys.executable)

    assert Later([str(missing), *command[1:]], lock, restart=True).supervise(-1) == EXIT_STOPPED


def test_deaths_in_a_row_are_followed_by_longer_waits(tmp_path: Path, lock: int) -> None:
    waits: list[float] = []

    class Patient(Supervisor):
        def _sleep(self, seconds: float) -> None:
            waits.append(seconds)

    lives = [KILLED] * 7 + [f"sys.exit({EXIT_STOPPED})"]
    assert Patient(script(tmp_path, *lives), lock, restart=True).supervise(-1) == EXIT_STOPPED
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]


# ── signals


def test_told_to_end_before_there_is_a_router(tmp_path: Path, lock: int) -> None:
    """The signal comes while the first router is being started: it is passed on all the same."""
    waits_long = supervisor(tmp_path, lock, "time.sleep(60)")
    waits_long.end(signal.SIGTERM, None)
    assert waits_long.supervise(-1) == -signal.SIGTERM


def run_main(tmp_path: Path, lock: int, *lives: str, mode: str = "restart") -> subprocess.Popen[bytes]:
    """`main` in a process of its own, with our program in the router's place."""
    program = (
        "import sys\nfrom meshd.daemon import supervise\n"
        f"sys.executable = {str(tmp_path / 'python')!r}\n"
        "sys.exit(supervise.main(sys.argv[1:]))\n"
    )
    command = script(tmp_path, *lives)
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(lock), "-1", mode],
        pass_fds=[lock],
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        select.select([], [], [], 0.01)
    raise AssertionError("it does not happen")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both(tmp_path: Path, lock: int, number: signal.Signals) -> None:
    up = tmp_path / "up"
    process = run_main(tmp_path, lock, f"open({str(up)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    wait_for(lambda: up.exists() and up.read_text() != "")
    pid_file = tmp_path / "supervisor.pid"
    assert int(pid_file.read_text()) == process.pid
    process.send_signal(number)
    process.wait(20)
    assert len(starts(tmp_path)) == 1
    assert not Path(f"/proc/{up.read_text()}").exists()
    assert not pid_file.exists()


def test_a_signal_between_two_lives_ends_the_wait(tmp_path: Path, lock: int) -> None:
    process = run_main(tmp_path, lock, f"sys.exit({DIES})")
    wait_for(lambda: (tmp_path / "starts").exists() and len(starts(tmp_path)) >= 2)
    process.terminate()
    process.wait(20)
    assert not (tmp_path / "supervisor.pid").exists()


def test_main_passes_on_the_folder(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def supervise(self: Supervisor, ready: int) -> int:
        seen.append([*self._command, str(self._lock), str(self._restart), str(ready)])
        assert (tmp_path / "supervisor.pid").read_text() == f"{os.getpid()}\n"
        return DIES

    monkeypatch.setattr(Supervisor, "supervise", supervise)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main([str(tmp_path), str(lock), "-1", "once"]) == DIES
    assert seen == [[sys.executable, "-m", "meshd.daemon.run", str(tmp_path), str(lock), "False", "-1"]]


# ── the lock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock_is_free(path)
    assert not path.exists()  # looking changes nothing
    first = take_lock(path)
    assert first is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert take_lock(path) is None
    assert not lock_is_free(path)
    clear_lock(path)
    assert path.exists()  # it is held
    os.close(first)
    assert lock_is_free(path)
    clear_lock(path)
    assert not path.exists()
    clear_lock(path)


def test_the_lock_lives_as_long_as_any_process_that_inherited_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = take_lock(path)
    assert descriptor is not None
    heir = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    os.close(descriptor)
    assert not lock_is_free(path)
    heir.kill()
    heir.wait()
    assert lock_is_free(path)


def test_a_lock_on_a_file_that_was_removed_excludes_nobody_and_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our open and our lock the former holder removes the file, and another process makes and locks a new one."""
    path = tmp_path / "lock"
    path.touch()
    opened: list[int] = []
    real_open = os.open

    def open_late(file: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(file, flags, mode)
        opened.append(descriptor)
        if len(opened) == 1:
            path.unlink()
            opened.append(other := real_open(path, os.O_RDWR | os.O_CREAT))
            fcntl.flock(other, fcntl.LOCK_EX)
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    assert take_lock(path) is None
    os.close(opened[1])


def test_many_who_take_and_clear_never_hold_it_together(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holders, most, taken = 0, 0, 0
    guard = threading.Lock()

    def contend() -> None:
        nonlocal holders, most, taken
        for _ in range(200):
            descriptor = take_lock(path)
            if descriptor is None:
                continue
            with guard:
                holders += 1
                taken += 1
                most = max(most, holders)
            with guard:
                holders -= 1
            os.close(descriptor)
            clear_lock(path)

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken > 0
    assert most == 1


# ── the log


def test_a_full_disk_does_not_end_it(tmp_path: Path, lock: int) -> None:
    """The line about the death cannot be written; the router is started again all the same."""
    command = script(tmp_path, KILLED, f"sys.exit({EXIT_STOPPED})")
    full = Supervisor(command, lock, restart=True, log=Path("/dev/full"), backoff_s=(0.0,))
    assert full.supervise(-1) == EXIT_STOPPED
    assert len(starts(tmp_path)) == 2


def test_deaths_are_told_in_the_log_of_today(tmp_path: Path, lock: int) -> None:
    """The router begins a new log when the old one is full: what is said from then on belongs there."""
    log = tmp_path / "meshd.log"
    command = script(
        tmp_path, f"os.rename({str(log)!r}, {str(log)!r} + '.1'); raise RuntimeError('first')", "sys.exit(0)"
    )
    assert Supervisor(command, lock, restart=True, log=log, backoff_s=(0.0,)).supervise(-1) == EXIT_STOPPED
    assert "RuntimeError: first" in log.with_name("meshd.log.1").read_text()
    assert re.fullmatch(
        r"[\d-]+ [\d:,]+ WARNING meshd\.daemon\.supervise: router ended with status 1: starting it again\n",
        log.read_text(),
    )
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_pid_file_that_cannot_be_written_is_no_reason_to_have_no_router(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "supervisor.pid").mkdir()
    monkeypatch.setattr(Supervisor, "supervise", lambda *_: DIES)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main([str(tmp_path), str(lock), "-1", "once"]) == DIES
