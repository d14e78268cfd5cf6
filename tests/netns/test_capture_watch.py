"""Netlink's worker thread and the link watcher, both beside a running uvloop, which is where the daemon has them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from pyroute2 import IPRoute

from meshd.capture.bridge import ensure_bridge
from meshd.capture.link_watcher import LinkChange, LinkEvent, LinkWatcher
from meshd.capture.links import find_link
from meshd.capture.netlink import Netlink
from meshd.capture.veth import Mtus, Plug, host_ifname, plug
from meshd.ids import parse_mac
from tests.netns.capture_helpers import Space, spaces

MAC = parse_mac("06:00:00:00:00:99")


def on_uvloop(host: Space, main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bounded())

    host.run(run)


def test_requests_run_on_the_worker_thread(host: Space) -> None:
    async def main() -> None:
        netlink = Netlink()
        try:
            assert await netlink.run(lambda ipr: ensure_bridge(ipr, "meshd", MAC, 1372))
            assert netlink.call_sync(lambda ipr: find_link(ipr, "meshd")) is not None  # the same, without await
            threads = await asyncio.gather(*(netlink.run(lambda _: threading.get_ident()) for _ in range(4)))
            assert len(set(threads)) == 1
            assert threads[0] != threading.get_ident()
        finally:
            netlink.close()
        netlink.close()
        with pytest.raises(RuntimeError):
            await netlink.run(lambda _: None)

    on_uvloop(host, main)


def test_refusal_of_the_kernel_is_an_oserror_and_the_thread_goes_on(host: Space) -> None:
    async def main() -> None:
        netlink = Netlink()
        try:
            with pytest.raises(PermissionError):
                await netlink.run(_break_the_socket)
            with pytest.raises(FileExistsError):
                await netlink.run(lambda ipr: ipr.link("add", ifname="lo", kind="bridge"))
            with pytest.raises(ZeroDivisionError):
                await netlink.run(lambda _: 1 // 0)
            assert await netlink.run(lambda ipr: find_link(ipr, "nope")) is None
        finally:
            netlink.close()

    on_uvloop(host, main)


def _break_the_socket(ipr: IPRoute) -> None:
    """The socket's own failure: the next request gets a new one."""
    ipr.close()
    raise PermissionError


class Watched:
    """The events so far, and waiting for one."""

    def __init__(self) -> None:
        self.events: list[LinkEvent] = []
        self.arrived = asyncio.Event()
        self.watcher = LinkWatcher(asyncio.get_running_loop(), self.receive)

    def receive(self, event: LinkEvent) -> None:
        self.events.append(event)
        self.arrived.set()

    async def until(self, wanted: Callable[[LinkEvent], bool]) -> LinkEvent:
        while True:
            for event in self.events:
                if wanted(event):
                    return event
            self.arrived.clear()
            await self.arrived.wait()


def test_host_end_goes_with_its_namespace_and_the_watcher_tells(host: Space) -> None:
    async def main() -> None:
        watched = Watched()
        watched.watcher.start()
        netlink = Netlink()
        try:
            with spaces("gone") as (container,):
                name = host_ifname(container.inode, "meshd")
                want = Plug(
                    host_ifname=name,
                    ifname="mesh0",
                    bridge="meshd",
                    mac=MAC,
                    mtus=Mtus(1372, 1372),
                    gso_max_size=59_000,
                )
                await netlink.run(lambda ipr: ensure_bridge(ipr, "meshd", MAC, 1372))
                await netlink.run(lambda ipr: plug(ipr, container.fd, want))
                present = await watched.until(lambda e: e.name == name and e.up and e.master > 0)
                assert present.change is LinkChange.PRESENT
            removed = await watched.until(lambda e: e.name == name and e.change is LinkChange.REMOVED)
            assert removed.index == present.index
            assert await netlink.run(lambda ipr: find_link(ipr, name)) is None
        finally:
            netlink.close()
            watched.watcher.stop()
        watched.watcher.stop()

    on_uvloop(host, main)


def test_port_that_leaves_the_bridge_is_not_reported_as_removed(host: Space) -> None:
    async def main() -> None:
        watched = Watched()
        host.command("ip", "link", "add", "br0", "type", "bridge")
        host.command("ip", "link", "add", "p0", "master", "br0", "type", "veth", "peer", "name", "p1")
        watched.watcher.start()
        try:
            host.command("ip", "link", "set", "p0", "nomaster")
            host.command("ip", "link", "del", "br0")
            await watched.until(lambda e: e.name == "br0" and e.change is LinkChange.REMOVED)
        finally:
            watched.watcher.stop()
        assert any(e.name == "p0" and e.master == 0 for e in watched.events)
        assert not any(e.name == "p0" and e.change is LinkChange.REMOVED for e in watched.events)

    on_uvloop(host, main)


def test_lost_events_are_reported(host: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer of one event, and a loop's worth of changes while the thread is kept from reading."""
    monkeypatch.setattr("meshd.capture.link_watcher._RECEIVE_BUFFER", 1)  # the kernel's minimum: 2304 bytes

    async def main() -> None:
        watched = Watched()
        gate = threading.Event()
        read = asyncio.get_running_loop().call_soon_threadsafe

        def held(callback: Callable[..., object], *arguments: object) -> object:
            gate.wait(10)
            return read(callback, *arguments)

        monkeypatch.setattr(watched.watcher, "_loop", type("Held", (), {"call_soon_threadsafe": staticmethod(held)}))
        watched.watcher.start()
        try:
            for number in range(20):
                host.command("ip", "link", "add", f"b{number}", "type", "bridge")
            gate.set()
            await watched.until(lambda e: e.change is LinkChange.RESYNC)
        finally:
            gate.set()
            watched.watcher.stop()

    on_uvloop(host, main)


def test_watcher_outlives_a_closed_loop(host: Space) -> None:
    """Events for a loop that is gone end the thread; `stop` still works."""
    loop = asyncio.new_event_loop()
    watcher = LinkWatcher(loop, lambda _: None)
    host.run(watcher.start)
    loop.close()
    host.command("ip", "link", "add", "br0", "type", "bridge")
    watcher.stop()
