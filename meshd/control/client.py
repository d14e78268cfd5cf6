"""The command line's end of the control API: one blocking request at a time, on the standard library alone.

No asyncio, no aiohttp, no click: a verb that only asks starts, asks and ends in well under 200 ms. Everything that can go wrong
comes out as a `UserError` that says what to do.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Generator, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshd.control import limits
from meshd.control.inputs import check_container, check_ifname, check_inquiry, parse_cidr, parse_target
from meshd.control.limits import EXIT_NOT_RUNNING
from meshd.errors import UserError

if TYPE_CHECKING:
    from meshd.control.api import AttachResult, DetachResult

# The command line knows the control API through this module alone: what it checks before it asks is re-exported here.
__all__ = [
    "EXIT_NOT_RUNNING",
    "ControlClient",
    "check_container",
    "check_ifname",
    "check_inquiry",
    "parse_cidr",
    "parse_target",
]

QUERY_TIMEOUT_S = 10.0
TRACE_TIMEOUT_S = 40.0  # each router on the way has 2 s
ATTACH_TIMEOUT_S = 60.0  # Docker may be slow to answer the router


class ControlClient:
    """Asks one router. Every method raises UserError; with `status` EXIT_NOT_RUNNING where nobody answers."""

    def __init__(self, path: Path, timeout: float = QUERY_TIMEOUT_S, *, lock: Path | None = None) -> None:
        """`lock`: held while a router lives, also before it answers and between its death and the next start."""
        self._path = path
        self._timeout = timeout
        self._lock = lock

    def ready(self) -> bool:
        """True once the router answers and is ready; False while it starts or does not run."""
        try:
            return self._request("GET", "/ready").get("ready") is True
        except UserError:
            return False

    def version(self) -> dict[str, object]:
        return self._request("GET", "/version")

    def status(self) -> dict[str, object]:
        return self._request("GET", "/status")

    def ps(self) -> dict[str, object]:
        return self._request("GET", "/ps")

    def connect(self, peers: tuple[str, ...], *, replace: bool = False) -> None:
        self._request("POST", "/connect", {"peers": peers, "replace": replace})

    def forget(self, peers: tuple[str, ...]) -> None:
        self._request("POST", "/forget", {"peers": peers})

    def attach(
        self,
        container: str,
        addresses: tuple[str, ...] = (),
        ifname: str | None = None,
        port_security: bool | None = None,
    ) -> AttachResult:
        from meshd.control.api import attach_result

        request = {
            "container": container,
            "addresses": addresses,
            "ifname": ifname,
            "port_security": port_security,
        }
        return attach_result(self._request("POST", "/attach", request, ATTACH_TIMEOUT_S))

    def detach(self, container: str, addresses: tuple[str, ...] = ()) -> DetachResult:
        from meshd.control.api import detach_result

        request = {"container": container, "addresses": addresses}
        return detach_result(self._request("POST", "/detach", request, ATTACH_TIMEOUT_S))

    def ping(self, target: str) -> dict[str, object]:
        return self._request("POST", "/ping", {"target": target})

    def trace(self, target: str) -> dict[str, object]:
        return self._request("POST", "/trace", {"target": target}, TRACE_TIMEOUT_S)

    def capture(self, words: tuple[str, ...]) -> Generator[dict[str, Any], None, None]:
        """The lines of the stream, see `meshd.control.streaming`, as they come; the last one, if the router ends, is {"end"}."""
        connection = _UnixConnection(self._path, self._timeout, self._lock)
        try:
            connection.request("POST", "/capture", json.dumps({"words": words}))
            response = connection.getresponse()
            if response.status != 200:
                _decode(response.status, response.read(limits.MAX_RESPONSE + 1))
            while text := response.readline(limits.MAX_RESPONSE):
                line = _decode(200, text)
                yield line
                if "end" in line:
                    return
        except TimeoutError:
            raise UserError("meshd does not answer any more", hint="its log says what it is doing") from None
        except (HTTPException, ConnectionError):
            pass
        finally:
            connection.close()
        raise UserError("meshd closed the connection", hint="see its log", status=EXIT_NOT_RUNNING)

    def stop(self) -> None:
        self._request("POST", "/stop", {})

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None, timeout: float = 0
    ) -> dict[str, object]:
        connection = _UnixConnection(self._path, max(timeout, self._timeout), self._lock)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            status, text = response.status, response.read(limits.MAX_RESPONSE + 1)
        except TimeoutError:
            raise UserError(
                f"meshd does not answer (waited {connection.timeout:.0f} s)", hint="its log says what it is doing"
            ) from None
        except (HTTPException, ConnectionError):
            raise UserError(
                "meshd closed the connection before it answered",
                hint="it is ending or busy, see its log",
                status=EXIT_NOT_RUNNING,
            ) from None
        finally:
            connection.close()
        return _decode(status, text)


def _decode(status: int, text: bytes) -> dict[str, object]:
    try:
        answer = json.loads(text) if len(text) <= limits.MAX_RESPONSE else None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise UserError(
            f"meshd gave an answer that is not JSON (HTTP {status})", hint="is it the same version as this command?"
        )
    if status < 400:
        return answer
    code = answer.get("status")
    raise UserError(
        str(answer.get("error") or f"meshd answered HTTP {status}"),
        hint=str(answer.get("hint") or ""),
        status=code if isinstance(code, int) and 0 < code < 256 else 1,
    )


def _nobody_listens(lock: Path | None) -> UserError:
    if lock is not None and _is_held(lock):
        return UserError(
            "meshd is starting, or dies again and again",
            hint="ask once more in some seconds, then see its log",
            status=EXIT_NOT_RUNNING,
        )
    return UserError("meshd is not running", hint="start it with: meshd launch", status=EXIT_NOT_RUNNING)


def _is_held(lock: Path) -> bool:
    """A look that keeps no launch from it for longer than it takes."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket; what keeps it from connecting is told in the user's terms."""

    timeout: float

    def __init__(self, path: Path, timeout: float, lock: Path | None) -> None:
        super().__init__("meshd", timeout=timeout)
        self._path = path
        self._lock = lock

    def connect(self) -> None:
        if len(os.fsencode(self._path)) > limits.MAX_SOCKET_PATH:
            raise UserError(f"the path {self._path} is too long for a socket", hint="choose a shorter MESHD_DIR")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(str(self._path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            sock.close()
            raise _nobody_listens(self._lock) from None
        except PermissionError:
            sock.close()
            raise UserError(f"no permission to use {self._path}", hint="run as root") from None
        except BaseException:
            sock.close()
            raise
        self.sock = sock
