"""The port of a loop: found, taken down, opened again, longer each time; never our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from pyroute2 import IPRoute

from meshd.capture.netlink import Netlink
from meshd.daemon import loops as module
from meshd.daemon.capturing import Capturing
from meshd.daemon.loops import FIRST_S, LONGEST_S, Loops
from meshd.ids import Mac, parse_mac
from meshd.node.notices import Notices

MAC = parse_mac("02:6e:00:00:00:01")


class Host:
    """Netlink, the bridge and the clock."""

    bridge = "meshd"
    links = frozenset({"meshd", "meshd-tap"})

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behind = "mvloop"
        self.down: list[str] = []
        self.ends = ["mvloop", "mvweb"]
        self.naps: list[float] = []
        self.failure: OSError | None = None
        self.notices = Notices()
        self.loops = Loops(cast(Netlink, self), cast(Capturing, self), self.notices, lambda: 0.0)
        monkeypatch.setattr(module, "port_behind", lambda ipr, bridge, mac: self.behind)
        monkeypatch.setattr(module, "block_port", lambda ipr, port: self.down.append(port))
        monkeypatch.setattr(module, "open_port", lambda ipr, port: self.down.remove(port))
        monkeypatch.setattr(module, "blocked_ports", lambda ipr, bridge: list(self.down))
        monkeypatch.setattr(module, "host_ends", lambda ipr, bridge: self.ends)
        monkeypatch.setattr("meshd.daemon.loops.asyncio.sleep", self.sleep)

    async def run(self, fn: Callable[[IPRoute], Any]) -> Any:
        if self.failure is not None:
            raise self.failure
        return fn(cast(IPRoute, None))

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)

    async def block(self, mac: Mac = MAC) -> None:
        self.loops.block(mac)
        await asyncio.gather(*self.loops._tasks)


def test_down_for_a_while_and_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)

    async def test() -> None:
        for _ in range(6):
            await host.block()
            assert host.down == []
        assert host.naps == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, LONGEST_S, LONGEST_S]
        assert "a loop: mvloop leads back" in host.notices.recent(0.0)[0]
        await host.loops.close()

    asyncio.run(test())


@pytest.mark.parametrize("port", ["", "meshd-tap"])
def test_an_unknown_port_and_our_own_are_left_alone(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    host = Host(monkeypatch)
    host.behind = port

    async def test() -> None:
        await host.block()
        assert (host.naps, host.notices.recent(0.0)) == ([], ())

    asyncio.run(test())


def test_what_a_former_router_left_down_is_opened_and_others_ports_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.down = ["mvweb", "eth7"]

    async def test() -> None:
        await host.loops.start()
        await asyncio.gather(*host.loops._tasks)
        assert host.down == ["eth7"]

    asyncio.run(test())


def test_netlink_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    host = Host(monkeypatch)
    host.failure = OSError(1, "no")

    async def test() -> None:
        await host.block()
        assert caplog.text.count("cannot block the port of a loop") == 1

    asyncio.run(test())
