"""The supervisor: keeps one router process running until `stop`. Standard library only, so that it costs little and cannot break.

    argv: RUN_FOLDER LOCK_FD READY_FD restart|once; writes RUN_FOLDER/supervisor.pid; the router reads RUN_FOLDER/launch.json.

It holds the lock of the folder; the router inherits the descriptor, so the folder stays taken as long as either lives. A router
that ends with EXIT_STOPPED was told to stop; with EXIT_REFUSED it never got ready and said why. Any other end is a death: the
router is started again at once, then after 1, 2, 4, 5 s while it keeps dying early.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

__all__ = ["EXIT_REFUSED", "EXIT_STOPPED", "lock_is_free", "main", "take_lock"]

EXIT_STOPPED = 0
EXIT_REFUSED = 78  # EX_CONFIG
_HEALTHY_AFTER_S = 10.0
_BACKOFF_S = (0.0, 1.0, 2.0, 4.0, 5.0)


def take_lock(path: Path) -> int | None:
    """Lock the file without waiting; the descriptor, to be kept open, or None where another router holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def lock_is_free(path: Path) -> bool:
    """True where no router holds the folder; changes nothing."""
    if not path.exists():
        return True
    descriptor = take_lock(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


class _Supervisor:
    def __init__(self, run: Path, lock: int, *, restart: bool) -> None:
        self._run = run
        self._lock = lock
        self._restart = restart
        self._router: subprocess.Popen[bytes] | None = None
        self._ending = False

    def end(self, _signal: int, _frame: FrameType | None) -> None:
        """The supervisor itself is told to end: so is the router, and nothing is started again."""
        self._ending = True
        if self._router is not None:
            with contextlib.suppress(ProcessLookupError):
                self._router.terminate()

    def supervise(self, ready: int) -> int:
        early_deaths = 0
        while True:
            started = time.monotonic()
            status = self._run_router(ready)
            ready = -1
            if self._told_to_end() or status in (EXIT_STOPPED, EXIT_REFUSED) or not self._restart:
                return status
            early_deaths = 0 if time.monotonic() - started > _HEALTHY_AFTER_S else early_deaths + 1
            print(f"router ended with status {status}: starting it again", file=sys.stderr, flush=True)  # noqa: T201 - the log
            self._sleep(_BACKOFF_S[min(early_deaths, len(_BACKOFF_S) - 1)])
            if self._told_to_end():
                return status

    def _told_to_end(self) -> bool:
        return self._ending

    def _run_router(self, ready: int) -> int:
        argv = [sys.executable, "-m", "meshd.daemon.run", str(self._run), str(ready)]
        passed = [self._lock] + ([ready] if ready >= 0 else [])
        self._router = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=passed)
        if ready >= 0:
            os.close(ready)  # the router's copy is the last: its death is the launcher's end of file
        return self._router.wait()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._told_to_end() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    run, lock, ready, restart = Path(arguments[0]), int(arguments[1]), int(arguments[2]), arguments[3] == "restart"
    supervisor = _Supervisor(run, lock, restart=restart)
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
