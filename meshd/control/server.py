"""The router's end of the control API: an aiohttp application on a unix socket that only its owner may open.

It checks what comes in, hands it to `ControlHandlers`, and turns what they raise into an answer: a `UserError` is the user's line,
anything else is a bug, logged with its traceback and told as one line. Bounds: MAX_CLIENTS connections, a request complete within
HEADER_TIMEOUT_S and no longer than MAX_BODY, one request per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, cast

from aiohttp import web

from meshd.control import api, limits
from meshd.control.api import (
    AttachRequest,
    AttachResult,
    CaptureRequest,
    ConnectRequest,
    DetachRequest,
    DetachResult,
    ForgetRequest,
    InquiryRequest,
)
from meshd.control.inquiry import ping_body, trace_body
from meshd.control.pieces import pieces
from meshd.control.report import build_ps, build_report
from meshd.control.streaming import FrameStream, stream_frames
from meshd.errors import UserError
from meshd.views import BridgeView, PingView, RouterView, TraceView

__all__ = ["ControlHandlers", "ControlServer", "interface_mac", "serve"]

_log = logging.getLogger(__name__)

_SIOCGIFHWADDR = 0x8927
_TURN_CHARACTERS = 32 * 1024  # of an answer, made within a millisecond
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlHandlers(Protocol):
    """What the router does for its users. All may raise UserError; calls run concurrently on the router's loop."""

    async def refresh(self) -> None:
        """Bring up to date what `view` shows and only the kernel knows."""

    def view(self) -> RouterView: ...
    def bridge(self) -> BridgeView:
        """The part of the view that `ps` shows; costs what is attached, not what is known of the mesh."""

    def ready(self) -> bool: ...
    def version(self) -> tuple[str, int]:
        """And the process's number: what is asked often, and shall not make the whole view."""

    async def attach(self, request: AttachRequest) -> AttachResult: ...
    async def detach(self, request: DetachRequest) -> DetachResult: ...
    async def connect(self, peers: tuple[str, ...], replace: bool) -> None: ...
    async def forget(self, peers: tuple[str, ...]) -> None: ...
    async def ping(self, target: str) -> PingView: ...
    async def trace(self, target: str) -> TraceView: ...
    async def capture(self, request: CaptureRequest) -> FrameStream: ...
    async def stop(self) -> None:
        """Begin to end. Returns at once: the answer is sent after it."""


class ControlServer:
    """A running server; `cleanup` ends it and removes its socket."""

    def __init__(self, path: Path, runner: web.AppRunner, listener: asyncio.Server, gate: _Gate) -> None:
        self._path = path
        self._runner = runner
        self._listener = listener
        self._gate = gate
        self._inode = path.stat().st_ino

    async def cleanup(self) -> None:
        self._listener.close()
        self._gate.close()
        await self._runner.cleanup()  # answers what is under way first
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:  # not the socket of a router that came after us
                self._path.unlink()


async def serve(path: Path, handlers: ControlHandlers) -> ControlServer:
    """Listen on `path`. Raises UserError where another router answers there; the socket of a dead one is replaced."""
    gate = _Gate()
    app = web.Application(client_max_size=limits.MAX_BODY, middlewares=[gate.middleware, _errors])
    _Routes(handlers).add_to(app)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0, tcp_keepalive=False)
    await runner.setup()
    gate.server = cast(web.Server, runner.server)
    try:
        sock = _listen(path)
    except BaseException:
        await runner.cleanup()
        raise
    listener = await asyncio.get_running_loop().create_unix_server(gate.accept, sock=sock)
    return ControlServer(path, runner, listener, gate)


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600 before the first client can connect."""
    if len(os.fsencode(path)) > limits.MAX_SOCKET_PATH:
        raise UserError(f"the path {path} is too long for a socket", hint="choose a shorter MESHD_DIR")
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(limits.MAX_CLIENTS)
    except BaseException:
        sock.close()
        raise
    return sock


def _clear_stale(path: Path) -> None:
    """Remove the socket of a router that died. Only a refused connection proves that nobody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UserError(f"{path} is in the way: it is not a socket", hint="remove it, or choose another MESHD_DIR")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        result = probe.connect_ex(str(path))
    if result == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif result != errno.ENOENT:
        raise UserError(
            f"a router already runs on {path}", hint="stop it with: meshd stop, or choose another MESHD_DIR"
        )


class _Gate:
    """Lets at most MAX_CLIENTS in and throws out those that do not say what they want in time."""

    server: web.Server

    def __init__(self) -> None:
        self._deadlines: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def accept(self) -> asyncio.Protocol:
        return _Arrival(self)

    def admit(self, transport: asyncio.Transport) -> None:
        if len(self.server.connections) >= limits.MAX_CLIENTS:
            _log.warning("control socket: more than %d clients at one time, one was turned away", limits.MAX_CLIENTS)
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._deadlines[transport] = loop.call_later(limits.HEADER_TIMEOUT_S, self._expire, transport)
        connection = self.server()
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def _expire(self, transport: asyncio.Transport) -> None:
        del self._deadlines[transport]
        transport.abort()

    def close(self) -> None:
        for deadline in self._deadlines.values():
            deadline.cancel()
        self._deadlines.clear()

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """The body is read here, within the deadline; what the handler then takes is its own affair."""
        transport = request.transport
        try:
            await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _failure(413, UserError(f"the request is longer than {limits.MAX_BODY} bytes"))
        except (OSError, web.RequestPayloadError):
            return _failure(400, UserError("the request ended before it was complete"))
        finally:
            deadline = self._deadlines.pop(transport, None) if transport is not None else None
            if deadline is not None:
                deadline.cancel()
        response = await handler(request)
        response.force_close()
        return response


class _Arrival(asyncio.Protocol):
    """Stands in until the gate has decided about a new connection."""

    def __init__(self, gate: _Gate) -> None:
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._gate.admit(cast(asyncio.Transport, transport))  # not a subclass of it on uvloop


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except UserError as error:
        return _failure(400, error)
    except web.HTTPException as error:
        return _failure(error.status, UserError(f"{request.method} {request.path}: {error.reason}"))
    except Exception as error:
        _log.exception("%s %s failed", request.method, request.path)
        what = f"internal error in the router ({type(error).__name__})"
        return _failure(500, UserError(what, hint="this is a bug; its log has the traceback", status=limits.EXIT_BUG))


def _failure(status: int, error: UserError) -> web.Response:
    response = web.json_response(api.error_body(error), status=status)
    response.force_close()
    return response


class _Routes:
    """One method per path; each checks, calls, and answers in JSON."""

    def __init__(self, handlers: ControlHandlers) -> None:
        self._handlers = handlers

    def add_to(self, app: web.Application) -> None:
        for path, query in (
            ("/ready", self.ready),
            ("/version", self.version),
            ("/status", self.status),
            ("/ps", self.ps),
        ):
            app.router.add_get(path, query)
        for path, command in (
            ("/connect", self.connect),
            ("/forget", self.forget),
            ("/attach", self.attach),
            ("/detach", self.detach),
            ("/ping", self.ping),
            ("/trace", self.trace),
            ("/capture", self.capture),
            ("/stop", self.stop),
        ):
            app.router.add_post(path, command)

    async def ready(self, _request: web.Request) -> web.Response:
        ready = self._handlers.ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def version(self, _request: web.Request) -> web.Response:
        version, pid = self._handlers.version()
        return web.json_response({"version": version, "pid": pid})

    async def _report(self) -> dict[str, object]:
        await self._handlers.refresh()
        view = self._handlers.view()
        return build_report(view, ready=self._handlers.ready(), bridge_mac=interface_mac(view.bridge))

    async def status(self, _request: web.Request) -> web.Response:
        return await _in_pieces(await self._report())

    async def ps(self, _request: web.Request) -> web.Response:
        await self._handlers.refresh()
        view = self._handlers.bridge()
        return web.json_response(build_ps(view, bridge_mac=interface_mac(view.bridge)))

    async def connect(self, request: web.Request) -> web.Response:
        asked = ConnectRequest.from_json(await _body(request))
        await self._handlers.connect(asked.peers, asked.replace)
        return web.json_response({})

    async def forget(self, request: web.Request) -> web.Response:
        await self._handlers.forget(ForgetRequest.from_json(await _body(request)).peers)
        return web.json_response({})

    async def attach(self, request: web.Request) -> web.Response:
        result = await self._handlers.attach(AttachRequest.from_json(await _body(request)))
        return web.json_response(api.to_json(result))

    async def detach(self, request: web.Request) -> web.Response:
        result = await self._handlers.detach(DetachRequest.from_json(await _body(request)))
        return web.json_response(api.to_json(result))

    async def ping(self, request: web.Request) -> web.Response:
        asked = InquiryRequest.from_json(await _body(request))
        return web.json_response(ping_body(await self._handlers.ping(asked.target)))

    async def trace(self, request: web.Request) -> web.Response:
        asked = InquiryRequest.from_json(await _body(request))
        return web.json_response(trace_body(await self._handlers.trace(asked.target)))

    async def capture(self, request: web.Request) -> web.StreamResponse:
        stream = await self._handlers.capture(CaptureRequest.from_json(await _body(request)))
        return await stream_frames(request, stream)

    async def stop(self, _request: web.Request) -> web.Response:
        await self._handlers.stop()
        return web.json_response({})


async def _in_pieces(report: dict[str, object]) -> web.Response:
    """The report as an answer; packets have their turn while it is made."""
    text: list[str] = []
    size = 0
    for piece in pieces(report):
        text.append(piece)
        size += len(piece)
        if size >= _TURN_CHARACTERS:
            size = 0
            await asyncio.sleep(0)
    return web.json_response(text="".join(text))


async def _body(request: web.Request) -> dict[str, object]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise UserError("the request's body is not JSON") from None
    if not isinstance(body, dict):
        raise UserError("the request's body is not a JSON object")
    return body


def interface_mac(name: str) -> str:
    """The MAC of an interface of the caller's network namespace (sysfs may show another's); "" if there is none."""
    request = struct.pack("16s16x", os.fsencode(name)[:15])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, request)
        except OSError:
            return ""
    return answer[18:24].hex(":")
