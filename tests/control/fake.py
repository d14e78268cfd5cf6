"""A control server on a real socket, in a thread with a loop of its own, with handlers that record what they were asked."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop

from meshd.control.api import AttachRequest, AttachResult, CaptureRequest, DetachRequest, DetachResult
from meshd.control.server import ControlHandlers, serve
from meshd.views import BridgeView, FrameView, PingView, RouterView, TraceView
from tests.control.samples import CONTAINER_ID, ping_view, router_view, trace_view

MAC = "9a:00:00:00:00:01"


class FakeStream:
    """Gives what stands in `batches`; then the router ends, or with `endless` nothing comes any more."""

    def __init__(self) -> None:
        self.title = "all frames"
        self.lost = 0
        self.batches: list[list[FrameView]] = []
        self.endless = False
        self.closed = threading.Event()

    async def frames(self, seconds: float) -> list[FrameView] | None:
        if self.batches:
            return self.batches.pop(0)
        if self.endless:
            await asyncio.sleep(0.01)
            return []
        return None

    def close(self) -> None:
        self.closed.set()


class FakeHandlers:
    """`fail`: raised by every command. `held`: addresses that the container has already."""

    def __init__(self, view: RouterView | None = None, *, fail: Exception | None = None) -> None:
        self.calls: list[object] = []
        self.shown = view or router_view()
        self.fail = fail
        self.is_ready = True
        self.refreshed = self.views = 0
        self.held: tuple[str, ...] = ()
        self.pings = [ping_view()]
        self.traced = trace_view()
        self.stream = FakeStream()

    async def refresh(self) -> None:
        self.refreshed += 1

    def view(self) -> RouterView:
        self.views += 1
        return self.shown

    def bridge(self) -> BridgeView:
        return BridgeView(bridge=self.shown.bridge, mtu=self.shown.mtu, attachments=self.shown.attachments)

    def ready(self) -> bool:
        return self.is_ready

    def version(self) -> tuple[str, int]:
        return self.shown.version, self.shown.pid

    def _record(self, call: object) -> None:
        self.calls.append(call)
        if self.fail is not None:
            raise self.fail

    async def attach(self, request: AttachRequest) -> AttachResult:
        self._record(request)
        addresses = request.addresses or self.held
        return AttachResult(addresses=addresses, mac=MAC, id=CONTAINER_ID)

    async def detach(self, request: DetachRequest) -> DetachResult:
        self._record(request)
        return DetachResult(addresses=request.addresses or self.held, id=CONTAINER_ID)

    async def connect(self, peers: tuple[str, ...], replace: bool) -> None:
        self._record(("connect", peers, replace))

    async def forget(self, peers: tuple[str, ...]) -> None:
        self._record(("forget", peers))

    async def ping(self, target: str) -> PingView:
        self._record(("ping", target))
        return self.pings.pop(0) if len(self.pings) > 1 else self.pings[0]

    async def trace(self, target: str) -> TraceView:
        self._record(("trace", target))
        return self.traced

    async def capture(self, request: CaptureRequest) -> FakeStream:
        self._record(request)
        return self.stream

    async def stop(self) -> None:
        self._record("stop")


@contextlib.contextmanager
def running(
    path: Path,
    handlers: ControlHandlers,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> Iterator[None]:
    """The server answers inside the block and its socket is gone after it."""
    started = threading.Event()
    failure: list[BaseException] = []
    ending: list[Callable[[], object]] = []

    async def server() -> None:
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        running_server = await serve(path, handlers)
        ending.append(lambda: loop.call_soon_threadsafe(end.set))
        started.set()
        await end.wait()
        await running_server.cleanup()

    def body() -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(server())
        except BaseException as error:  # told to the test below
            failure.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=body, name="control server")
    thread.start()
    started.wait()
    try:
        if not failure:
            yield
    finally:
        for end in ending:
            end()
        thread.join()
        if failure:
            raise failure[0]
