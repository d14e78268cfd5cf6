"""The router's process: options and key in, one loop, one Router, an honest exit status out.

    argv: RUN_FOLDER READY_FD     (started by `supervise`; `launch --foreground` calls `run_router` in its own process)

READY_FD gets one JSON line, when the router is ready or has refused, and is closed. SIGTERM and SIGINT end the router in order
(peers are told); only `meshd stop` makes the exit status EXIT_STOPPED, so that the supervisor starts it again after anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import logging.handlers
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import uvloop

from meshd.config import LaunchOptions, Paths
from meshd.daemon.options import read_options
from meshd.daemon.router import Router
from meshd.daemon.supervise import EXIT_REFUSED, EXIT_STOPPED
from meshd.errors import UserError

__all__ = ["configure_logging", "main", "run_router"]

_log = logging.getLogger("meshd")
MAX_LOG_BYTES = 5 << 20  # then it becomes meshd.log.1, and the one before goes
_EXIT_SIGNALLED = 75  # EX_TEMPFAIL: ended in order, but nobody said stop


class _LogFile(logging.handlers.RotatingFileHandler):
    """Every file that it begins is 0600: a log names hosts, containers and addresses.

    Standard output and error come along where they were in the file that is full: a traceback at the end belongs into the new one.
    """

    def doRollover(self) -> None:
        full = os.fstat(self.stream.fileno()) if self.stream is not None else None
        super().doRollover()
        if self.stream is not None and full is not None:
            for descriptor in (1, 2):
                if _is_same_file(descriptor, full):
                    os.dup2(self.stream.fileno(), descriptor)

    def _open(self) -> io.TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=_open_private)


def _is_same_file(descriptor: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file)
    except OSError:  # it is closed
        return False


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def configure_logging(level: str, file: Path | None = None) -> None:
    """One line an event, to the log file, or to standard error for a terminal or a service manager's journal."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if file is not None:
        handler = _LogFile(file, maxBytes=MAX_LOG_BYTES, backupCount=1)
    logging.basicConfig(
        level=getattr(logging, level.upper(), logging.INFO),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        handlers=[handler],
    )
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)


class _Answer:
    """The one line to whoever waits for the launch."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def give(self, answer: dict[str, object]) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, json.dumps(answer).encode() + b"\n")
            os.close(self._descriptor)
            self._descriptor = -1


async def _run(options: LaunchOptions, paths: Paths, answer: _Answer, restarted: bool) -> int:
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ending.done():
            ending.set_result(status)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, _EXIT_SIGNALLED)
    router = Router(options, paths, stop=lambda: end(EXIT_STOPPED), restarted=restarted)
    try:
        await router.start()
        gc.freeze()  # what the imports made lives as long as the process: no collection needs to walk it while packets wait
        _write_pid(paths.pid_file)
        answer.give({"ready": router.ready_answer()})
        _notify_service_manager("READY=1")
        return await ending
    finally:
        _notify_service_manager("STOPPING=1")
        await router.close()
        with contextlib.suppress(OSError):
            paths.pid_file.unlink(missing_ok=True)


def _write_pid(file: Path) -> None:
    """For scripts: a disk that is full now keeps no router from being there again."""
    try:
        file.write_text(f"{os.getpid()}\n")
    except OSError as error:
        _log.error("cannot write %s: %s", file, error.strerror)


def run_router(options: LaunchOptions, paths: Paths, ready_fd: int = -1, *, restarted: bool = False) -> int:
    """Run one router until it is told to end; the exit status. Refusals are printed as one line and given to READY_FD."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys must not end in a core file
    answer = _Answer(ready_fd)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(options, paths, answer, restarted))
    except UserError as error:
        _log.error("%s", error)
        answer.give({"error": str(error.args[0]), "hint": error.hint})
        return EXIT_REFUSED


def _notify_service_manager(state: str) -> None:
    """systemd's readiness protocol (sd_notify(3)), where it asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.send(state.encode())


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    run, ready = Path(arguments[0]), int(arguments[1])
    paths = Paths.from_environment()
    paths = Paths(run=run, state=paths.state)
    try:
        options = read_options(run)
    except UserError as error:
        configure_logging("info", paths.log)
        _log.error("%s", error)
        _Answer(ready).give({"error": str(error.args[0]), "hint": error.hint})
        return EXIT_REFUSED
    configure_logging(options.log_level, paths.log)
    return run_router(options, paths, ready, restarted=ready < 0)


if __name__ == "__main__":
    sys.exit(main())
