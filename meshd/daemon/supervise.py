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
        self, command: Sequence[str], lock: int, *, restart: bool, backoff_s: Sequence[float] = _BACKOFF_S
    ) -> None:
        self._command = command
        self._lock = lock
        self._restart = restart
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
            print(f"router ended with status {status}: starting it again", file=sys.stderr, flush=True)  # noqa: T201 - the log
            self._sleep(self._backoff_s[min(early_deaths, len(self._backoff_s) - 1)])
            if self._told_to_end():
                return status

    def _told_to_end(self) -> bool:
        return self._ending

    def _run_router(self, ready: int) -> int:
        passed = [self._lock] + ([ready] if ready >= 0 else [])
        try:
            router = subprocess.Popen([*self._command, str(ready)], stdin=subprocess.DEVNULL, pass_fds=passed)
        except OSError as error:  # no memory or no process to be had: there may be some later
            print(f"cannot start the router: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the log
            return 1
        finally:
            if ready >= 0:
                os.close(ready)  # the router's copy is the last: its death is the launcher's end of file
        self._router = router
        if self._told_to_end():  # the signal came before there was a router to pass it on to
            self._end_router()
        return router.wait()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._told_to_end() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    run, lock, ready, restart = Path(arguments[0]), int(arguments[1]), int(arguments[2]), arguments[3] == "restart"
    supervisor = Supervisor([sys.executable, "-m", "meshd.daemon.run", str(run)], lock, restart=restart)
    signal.signal(signal.SIGTERM, supervisor.end)
    signal.signal(signal.SIGINT, supervisor.end)
    pid_file = run / "supervisor.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    try:
        return supervisor.supervise(ready)
    finally:
        pid_file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
