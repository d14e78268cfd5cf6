"""The end of a router: `stop` ends the process and leaves the containers connected on this host; `reset` removes every trace.

Which processes to end by force is told by the lock, not by pid files: after a hard death those name strangers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from pyroute2 import IPRoute

from meshd.capture.bridge import remove_bridge
from meshd.capture.firewall import remove_rules
from meshd.capture.guards import remove_guards
from meshd.capture.links import delete_link
from meshd.capture.netlink import Netlink
from meshd.capture.veth import host_ends
from meshd.config import DEFAULT_BRIDGE, Paths
from meshd.control.client import ControlClient
from meshd.daemon.options import options_file
from meshd.daemon.state import State
from meshd.daemon.supervise import clear_lock, lock_is_free
from meshd.errors import UserError

__all__ = ["old_log", "reset", "stop"]

STOP_TIMEOUT_S = 10.0
TERM_TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 3.0
_POLL_S = 0.02


def stop(paths: Paths) -> bool:
    """End the router in order; False: none was running. Raises UserError when it can be ended neither so nor by force."""
    if lock_is_free(paths.lock):
        return False
    try:
        ControlClient(paths.socket, timeout=STOP_TIMEOUT_S).stop()
        told = True
    except UserError:
        told = False
    if not (told and _wait(lambda: lock_is_free(paths.lock), STOP_TIMEOUT_S)):
        _end_by_force(paths)
    _clear_run_files(paths)
    return True


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


def _clear_run_files(paths: Paths) -> None:
    clear_lock(paths.lock)
    for file in (paths.pid_file, paths.supervisor_pid_file, paths.socket):
        file.unlink(missing_ok=True)


def reset(paths: Paths, *, force: bool = False) -> bool:
    """Stop, then remove bridge, containers' interfaces, firewall rule, identity, key and state. False: nothing was there.

    Raises UserError for a router that does not answer, unless `force`.
    """
    if not lock_is_free(paths.lock) and not force:
        ControlClient(paths.socket, timeout=STOP_TIMEOUT_S).version()
    stop(paths)
    bridges = _bridges_of(paths)
    existed = paths.db.exists()
    for bridge in bridges:
        _remove_devices(bridge)
    shutil.rmtree(paths.db, ignore_errors=True)
    _clear_run_files(paths)
    for file in (options_file(paths.run), paths.log, old_log(paths)):
        file.unlink(missing_ok=True)
    for folder in (paths.run, paths.state):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only an empty one: MESHD_DIR may be the user's own
    return existed


def old_log(paths: Paths) -> Path:
    """Where the log goes when it is full, see `run.configure_logging`."""
    return paths.log.with_name(f"{paths.log.name}.1")


def _bridges_of(paths: Paths) -> tuple[str, ...]:
    """Those that this router made or used; the default one where its state cannot tell any more."""
    if not paths.database.exists():
        return ()
    try:
        state = State(paths.database)
        try:
            return state.bridges
        finally:
            state.close()
    except (OSError, sqlite3.Error, UserError):
        return (DEFAULT_BRIDGE,)


def _remove_devices(bridge: str) -> None:
    def remove(ipr: IPRoute) -> None:
        for end in host_ends(ipr, bridge):
            delete_link(ipr, end)
        with contextlib.suppress(UserError):  # of others: pcap mode plugs containers into what is there
            remove_bridge(ipr, bridge)

    netlink = Netlink()
    try:
        netlink.call_sync(remove)
    except OSError as error:
        raise UserError(
            f"cannot remove the bridge {bridge}: {os.strerror(error.errno or 0).lower()}", hint="run it as root"
        ) from error
    finally:
        netlink.close()
    for remove_ours in (remove_rules, remove_guards):
        with contextlib.suppress(OSError):
            remove_ours(bridge)
