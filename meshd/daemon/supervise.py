"""The supervisor: keeps one router process running until `stop`. Standard library only, so that it costs little and cannot break.

    argv: RUN_FOLDER LOCK_FD READY_FD restart|once; writes RUN_FOLDER/supervisor.pid; the router reads RUN_FOLDER/launch.json.

It holds the lock of the folder; the router inherits the descriptor, so the folder stays taken as long as either lives. A router
that ends with EXIT_STOPPED was told to stop; one that ends with EXIT_REFUSED at its first start never got ready and said why. Any
other end is a death, also a refusal later on (a disk that is full, a port that is taken for a moment): the router is started again
at once, then after 1, 2, 4, 5 s while it keeps dying early.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

__all__ = ["EXIT_REFUSED", "EXIT_STOPPED", "Supervisor", "clear_lock", "lock_is_free", "main", "take_lock"]

EXIT_STOPPED = 0
EXIT_REFUSED = 78  # EX_CONFIG
_HEALTHY_AFTER_S = 10.0
_BACKOFF_S = (0.0, 1.0, 2.0, 4.0, 5.0)


def take_lock(path: Path) -> int | None:
    """Lock the file without waiting; the descriptor, to be kept open, or None where another router holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # its last holder removed the file after we opened it: a lock on it excludes nobody


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def clear_lock(path: Path, *others: Path) -> None:
    """Remove the lock file and what else a router leaves, unless somebody holds the lock: then the files are theirs."""
    files = (*others, path)
    if any(file.exists() for file in files) and (descriptor := take_lock(path)) is not None:
        for file in files:
            file.unlink(missing_ok=True)  # while it is held: nobody can have taken it in between
        os.close(descriptor)


def lock_is_free(path: Path) -> bool:
    """True where no router holds the folder; changes nothing."""
    if not path.exists():
        return True
    descriptor = take_lock(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


class Supervisor:
    """Runs `command` with the number of the ready descriptor (-1: nobody waits) as its last argument, again and again."""

    def __init__(
        self,
        command: Sequence[str],
        lock: int,
        *,
        restart: bool,
        log: Path | None = None,
        backoff_s: Sequence[float] = _BACKOFF_S,
    ) -> None:
        """`log`: what is said here and what a router says at its death go there; None: to standard error."""
        self._command = command
        self._lock = lock
        self._restart = restart
        self._log = log
        self._backoff_s = backoff_s
        self._router: subprocess.Popen[bytes] | None = None
        self._ending = False

    def end(self, _signal: int, _frame: FrameType | None) -> None:
        """The supervisor itself is told to end: so is the router, and nothing is started again."""
        self._ending = True
        self._end_router()

    def _end_router(self) -> None:
        if self._router is not None:
            with contextlib.suppress(ProcessLookupError):
                self._router.terminate()

    def supervise(self, ready: int) -> int:
        """Until the router ends for good; its exit status. `ready` is closed."""
        early_deaths = 0
        final = {EXIT_STOPPED, EXIT_REFUSED}
        while True:
            started = time.monotonic()
            status = self._run_router(ready)
            if self._told_to_end() or status in final or not self._restart:
                return status
            ready, final = -1, {EXIT_STOPPED}
            early_deaths = 0 if time.monotonic() - started > _HEALTHY_AFTER_S else early_deaths + 1
            self._say(f"router ended with status {status}: starting it again")
            self._sleep(self._backoff_s[min(early_deaths, len(self._backoff_s) - 1)])
            if self._told_to_end():
                return status

    def _told_to_end(self) -> bool:
        return self._ending

    def _run_router(self, ready: int) -> int:
        passed = [self._lock] + ([ready] if ready >= 0 else [])
        log = self._open_log()
        try:
            router = subprocess.Popen(
                [*self._command, str(ready)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=passed
            )
        except OSError as error:  # no memory or no process to be had: there may be some later
            self._say(f"cannot start the router: {error}")
            return 1
        finally:
            if log is not None:
                os.close(log)
            if ready >= 0:
                os.close(ready)  # the router's copy is the last: its death is the launcher's end of file
        self._router = router
        if self._told_to_end():  # the signal came before there was a router to pass it on to
            self._end_router()
        return router.wait()

    def _open_log(self) -> int | None:
        """Anew each time: the file that we were started with is another one since the log was full, or is gone."""
        with contextlib.suppress(OSError):
            if self._log is not None:
                return os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return None

    def _say(self, text: str) -> None:
        """In the form of the router's own lines. A disk that is full costs the line, not the router."""
        now = time.time()
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        line = f"{clock},{int(now * 1000) % 1000:03} WARNING meshd.daemon.supervise: {text}\n"
        log = self._open_log()
        with contextlib.suppress(OSError):
            os.write(2 if log is None else log, line.encode(errors="backslashreplace"))
        if log is not None:
            os.close(log)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._told_to_end() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    run, lock, ready, restart = Path(arguments[0]), int(arguments[1]), int(arguments[2]), arguments[3] == "restart"
    command = [sys.executable, "-m", "meshd.daemon.run", str(run)]
    supervisor = Supervisor(command, lock, restart=restart, log=run / "meshd.log")
    signal.signal(signal.SIGTERM, supervisor.end)
    signal.signal(signal.SIGINT, supervisor.end)
    pid_file = run / "supervisor.pid"
    with contextlib.suppress(OSError):  # as for the router: it is for scripts, and no reason to have no router
        pid_file.write_text(f"{os.getpid()}\n")
    try:
        return supervisor.supervise(ready)
    finally:
        with contextlib.suppress(OSError):
            pid_file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
