"""The end of a router's process. The containers stay connected on this host.

Which processes to end by force is told by the lock, not by pid files: after a hard death those name strangers. Nothing of the
router is loaded for it: `meshd stop` is to be quick.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from meshd.config import Paths
from meshd.control.client import ControlClient
from meshd.daemon.supervise import clear_lock, lock_is_free
from meshd.errors import UserError

__all__ = ["STOP_TIMEOUT_S", "stop"]

STOP_TIMEOUT_S = 10.0
TERM_TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 3.0
PROGRESS_AFTER_S = 1.0
_POLL_S = 0.02


def stop(paths: Paths, progress: Callable[[str], None] = lambda text: None) -> bool:
    """End the router in order; False: none was running. Raises UserError when it can be ended neither so nor by force.

    `progress` is told what is waited for once that takes over a second.
    """
    running = not lock_is_free(paths.lock)
    if running:
        timer = threading.Timer(PROGRESS_AFTER_S, progress, ["waiting for the router to end …"])
        timer.start()
        try:
            _end(paths)
        finally:
            timer.cancel()
    clear_lock(paths.lock, paths.pid_file, paths.supervisor_pid_file, paths.socket)
    return running


def _end(paths: Paths) -> None:
    try:
        ControlClient(paths.socket, timeout=STOP_TIMEOUT_S).stop()
        told = True
    except UserError:
        told = False
    if not (told and _wait(lambda: lock_is_free(paths.lock), STOP_TIMEOUT_S)):
        _end_by_force(paths)


def _end_by_force(paths: Paths) -> None:
    """A router that does not answer, and its supervisor, which would start another."""
    for number, seconds in ((signal.SIGTERM, TERM_TIMEOUT_S), (signal.SIGKILL, KILL_TIMEOUT_S)):
        for pid in _holders(paths.lock):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if _wait(lambda: lock_is_free(paths.lock), seconds):
            return
    raise UserError(f"the router in {paths.run} does not end", hint=f"see {paths.log}")


def _holders(lock: Path) -> list[int]:
    """The processes that have the lock file open, other than this one."""
    held = os.stat(lock)
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and _has_open(pid, held)]


def _has_open(pid: int, file: os.stat_result) -> bool:
    try:
        return any(_is_same(descriptor, file) for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it ended, or is another user's
        return False


def _is_same(descriptor: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(descriptor.stat(), file)
    except OSError:
        return False


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_S)
    return True
