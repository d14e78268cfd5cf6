"""`reset`: the router ends (`stopping`), and every trace of it goes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
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
from meshd.daemon.stopping import STOP_TIMEOUT_S, stop
from meshd.daemon.supervise import lock_is_free, take_lock
from meshd.errors import UserError

__all__ = ["old_log", "reset"]


def reset(paths: Paths, *, force: bool = False, progress: Callable[[str], None] = lambda text: None) -> bool:
    """Stop, then remove bridge, containers' interfaces, firewall rule, identity, key and state. False: nothing was there.

    Raises UserError for a router that does not answer, unless `force`.
    """
    if not lock_is_free(paths.lock) and not force:
        _check_answer(paths)
    stop(paths, progress)
    with _held(paths):
        bridges = _bridges_of(paths)
        existed = paths.db.exists()
        for bridge in bridges:
            _remove_devices(bridge)
        if existed:
            _remove_state(paths.db)
        for file in (options_file(paths.run), paths.log, old_log(paths)):
            file.unlink(missing_ok=True)
    for folder in (paths.run, paths.state):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only an empty one: MESHD_DIR may be the user's own
    return existed


def _check_answer(paths: Paths) -> None:
    try:
        ControlClient(paths.socket, timeout=STOP_TIMEOUT_S).version()
    except UserError as error:
        raise UserError(
            f"a router runs here and does not answer ({error.args[0]})", hint="`meshd reset --force` ends it by force"
        ) from error


def _remove_state(db: Path) -> None:
    """What is in the folder; itself, unless it is a link or a mount. Raises OSError: a key that cannot be removed is no reset."""
    for entry in db.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    with contextlib.suppress(OSError):
        db.rmdir()


@contextlib.contextmanager
def _held(paths: Paths) -> Iterator[None]:
    """Nobody starts a router meanwhile: a service manager would at once, on a state that is just being removed."""
    if not paths.run.is_dir():
        yield
        return
    lock = take_lock(paths.lock)
    if lock is None:
        raise UserError(
            "another router was started here meanwhile", hint="stop what starts it, a service manager perhaps, first"
        )
    try:
        yield
    finally:
        paths.lock.unlink(missing_ok=True)  # while it is held, see take_lock
        os.close(lock)


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
