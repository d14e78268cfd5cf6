"""`meshd launch`: settle the key, start the supervisor, wait until the router answers. Runs in the command's own process.

Either the router is ready when this returns, or nothing is left of the attempt: files that it made are removed again, and the
router undoes its own devices before it reports why it refused. Only the log stays where a router has died without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from meshd.config import LaunchOptions, Paths, Secret
from meshd.daemon.files import make_private_folder, write_private
from meshd.daemon.keys import settle_key
from meshd.daemon.options import options_file, write_options
from meshd.daemon.preflight import check_launch, host_nickname
from meshd.daemon.supervise import take_lock
from meshd.errors import UserError

__all__ = ["LaunchResult", "Prepared", "ReadyAnswer", "already_running", "launch", "prepare"]

READY_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0  # for a router that did not get ready to end in order
PROGRESS_AFTER_S = 1.0


class ReadyAnswer(TypedDict):
    """What the router says of itself when it is ready."""

    name: str
    nickname: str
    pid: int
    addresses: list[str]
    warnings: list[str]


@dataclass(slots=True, frozen=True, kw_only=True)
class LaunchResult:
    """What `launch` prints. `key` is shown on a terminal only."""

    name: str
    nickname: str
    pid: int
    founded: bool  # this launch made the key
    key: Secret
    key_file: Path
    port: int
    addresses: tuple[str, ...]  # where others reach this host, best first
    warnings: tuple[str, ...]


@dataclass(slots=True, frozen=True, kw_only=True)
class Prepared:
    """A launch whose checks passed and whose files are written; `undo` removes what it made."""

    lock: int
    founded: bool
    key: Secret
    warnings: tuple[str, ...]
    undo: Callable[[], None]


class _SilentDeathError(UserError):
    """The router did not say why it is not ready: its log may."""


def prepare(options: LaunchOptions, paths: Paths) -> Prepared:
    """Check, lock the folder, settle the key, write the options. Raises UserError with nothing left behind."""
    warnings = check_launch(options, paths)
    undo = contextlib.ExitStack()
    try:
        for folder in (paths.run, paths.db):
            _make_folder(folder, undo)
        lock = take_lock(paths.lock)
        if lock is None:
            raise already_running(paths)
        undo.callback(_unlock, lock, paths)
        settled = settle_key(options, paths)
        if settled.written:
            undo.callback(paths.key_file.unlink, missing_ok=True)
        if not paths.identity_file.exists():
            undo.callback(paths.identity_file.unlink, missing_ok=True)
        undo.callback(_restore, options_file(paths.run), _content(options_file(paths.run)))
        undo.callback(_remove_new_log, paths, _content(paths.log) is None)
        write_options(paths.run, options)
    except BaseException:
        undo.close()
        raise
    return Prepared(
        lock=lock,
        founded=settled.founded,
        key=settled.key,
        warnings=(*warnings, *settled.warnings),
        undo=undo.pop_all().close,
    )


def launch(options: LaunchOptions, paths: Paths, progress: Callable[[str], None] = lambda text: None) -> LaunchResult:
    """Start the router in the background and wait until it answers. Raises UserError saying why it does not.

    `progress` is told what is waited for once that takes over a second.
    """
    options = replace(options, nickname=options.nickname or host_nickname())
    prepared = prepare(options, paths)
    try:
        answer = _start(options, paths, prepared.lock, progress)
    except _SilentDeathError:
        log = _content(paths.log)
        prepared.undo()
        _keep_log(paths, log)
        raise
    except BaseException:
        prepared.undo()
        raise
    os.close(prepared.lock)  # the supervisor holds it now
    return LaunchResult(
        name=answer["name"],
        nickname=answer["nickname"],
        pid=answer["pid"],
        founded=prepared.founded,
        key=prepared.key,
        key_file=paths.key_file,
        port=options.port,
        addresses=tuple(answer["addresses"]),
        warnings=(*prepared.warnings, *answer["warnings"]),
    )


def already_running(paths: Paths) -> UserError:
    pid = ""
    with contextlib.suppress(OSError):
        pid = f" (pid {paths.pid_file.read_text().strip()})"
    return UserError(f"meshd is already running{pid}", hint="`meshd connect HOST` adds a peer, `meshd stop` ends it")


def _start(options: LaunchOptions, paths: Paths, lock: int, progress: Callable[[str], None]) -> ReadyAnswer:
    ready, given = os.pipe()
    log = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    mode = "restart" if options.restart else "once"
    argv = [sys.executable, "-m", "meshd.daemon.supervise", str(paths.run), str(lock), str(given), mode]
    supervisor = None
    try:
        try:
            with _interrupts_held():
                supervisor = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=_environment(),
                    pass_fds=(lock, given),
                    start_new_session=True,
                )
        finally:
            os.close(given)
            os.close(log)
        return _await_answer(ready, paths, progress)
    except BaseException:
        if supervisor is not None:
            _end(supervisor)
        raise
    finally:
        os.close(ready)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C is raised at the end. Raised by Popen itself, it would leave a process that nobody knows, and so nobody ends."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not in_main_thread:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _end(supervisor: subprocess.Popen[bytes]) -> None:
    """In order, or the whole session: it is the supervisor's and its router's own."""
    supervisor.terminate()
    try:
        supervisor.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(supervisor.pid, signal.SIGKILL)
        supervisor.wait()


def _environment() -> dict[str, str]:
    """The router's environment: ours without the secrets, which it reads from the settled file."""
    return {name: value for name, value in os.environ.items() if name not in ("MESHD_KEY", "MESHD_PASSWORD", "KEY")}


def _await_answer(ready: int, paths: Paths, progress: Callable[[str], None]) -> ReadyAnswer:
    """One JSON line comes from the router: {"ready": …} or {"error": …, "hint": …}; end of file means that it died."""
    started = time.monotonic()
    told = False
    received = b""
    while not received.endswith(b"\n"):
        waited = time.monotonic() - started
        if waited > READY_TIMEOUT_S:
            raise _SilentDeathError(
                f"the router did not get ready within {READY_TIMEOUT_S:.0f} s", hint=f"see {paths.log}"
            )
        if waited > PROGRESS_AFTER_S and not told:
            progress("waiting for the router to get ready …")
            told = True
        if select.select([ready], [], [], 0.25)[0]:
            data = os.read(ready, 65536)
            if not data:
                raise _SilentDeathError("the router died while starting", hint=f"see the end of {paths.log}")
            received += data
    answer = json.loads(received)
    if "error" in answer:
        raise UserError(answer["error"], hint=answer.get("hint", ""))
    result: ReadyAnswer = answer["ready"]
    return result


def _make_folder(folder: Path, undo: contextlib.ExitStack) -> None:
    """With its parents; those that were not there are removed again by `undo`."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    for parent in reversed(missing):
        undo.callback(_remove_empty, parent)
    if not folder.exists():
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
    make_private_folder(folder)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _restore(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
    else:
        write_private(file, content)


def _remove_new_log(paths: Paths, new: bool) -> None:
    if new:
        paths.log.unlink(missing_ok=True)


def _keep_log(paths: Paths, content: bytes | None) -> None:
    """The error names the log, so it has to be there, and may be all that is."""
    if content is not None and not paths.log.exists():
        make_private_folder(paths.run)
        write_private(paths.log, content)


def _unlock(lock: int, paths: Paths) -> None:
    paths.lock.unlink(missing_ok=True)  # while it is held, see take_lock
    os.close(lock)
