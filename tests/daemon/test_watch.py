"""What happens on a host by itself: links that go, Docker that comes and goes, rules that somebody flushed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyroute2 import IPRoute

from meshd.capture.docker import DockerClient, DockerEvent
from meshd.capture.link_watcher import LinkChange, LinkEvent
from meshd.capture.netlink import Netlink
from meshd.daemon import watch as module
from meshd.daemon.attachments import Attachments
from meshd.daemon.watch import DOCKER_RETRY_S, RESTORE_RETRY_S, Watch
from meshd.errors import UserError


class Links:
    """In the place of the thread that listens to the kernel."""

    def __init__(self, _loop: object, callback: Callable[[LinkEvent], None]) -> None:
        self.tell = callback
        self.started = self.stopped = 0

    def start(self) -> None:
        self.started += 1

    def stop(self) -> None:
        self.stopped += 1


class Host:
    """Attachments, Docker and netlink, as the watch sees them."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.wants_docker = False
        self.failures: list[Exception] = []  # of the next connections to Docker
        self.events_now: asyncio.Queue[DockerEvent | Exception | None] = asyncio.Queue()
        self.ends = ["mv1", "mv2"]
        self.netlink_failure: OSError | None = None
        self.looking: asyncio.Event | None = None  # what netlink's answer waits for
        self.restore_failures: list[Exception] = []
        self.restoring: asyncio.Event | None = None  # what a repair waits for
        self.guards_looked_at = 0
        self.found: SimpleNamespace | None = None  # the link that is looked at

    async def link_removed(self, name: str) -> None:
        self.log.append(("link_removed", name))

    async def links_resync(self, present: list[str]) -> None:
        self.log.append(("resync", tuple(present)))

    async def reconcile(self) -> None:
        self.log.append(("reconcile",))

    async def restore(self, container: str) -> None:
        self.log.append(("restore", container))

    async def container_renamed(self, container: str, name: str) -> None:
        self.log.append(("renamed", container, name))

    async def container_removed(self, container: str) -> None:
        self.log.append(("removed", container))

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[DockerEvent]]:
        self.log.append(("connect",))
        if self.failures:
            raise self.failures.pop(0)
        yield self._stream()

    async def _stream(self) -> AsyncIterator[DockerEvent]:
        while (event := await self.events_now.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    def has_host_end(self, name: str) -> bool:
        return name in self.ends

    async def run(self, fn: Callable[[IPRoute], Any]) -> Any:
        if self.looking is not None:
            await self.looking.wait()
        if self.netlink_failure is not None:
            raise self.netlink_failure
        return fn(cast(IPRoute, self))

    async def restore_guards(self) -> None:
        self.guards_looked_at += 1

    async def restore_devices(self) -> None:
        self.log.append(("devices",))
        if self.restoring is not None:
            await self.restoring.wait()
        if self.restore_failures:
            raise self.restore_failures.pop(0)


class Bench:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.naps: list[float] = []
        self.rules: list[bool | OSError] = []
        self.watch = Watch(
            attachments=cast(Attachments, host),
            docker=cast(DockerClient, host),
            netlink=cast(Netlink, host),
            bridge="meshd",
            own_links=frozenset({"meshd", "meshd-tap"}),
            has_rule=True,
            restore_devices=host.restore_devices,
            restore_guards=host.restore_guards,
        )
        self.links = cast(Links, self.watch._links)

    async def sleep(self, seconds: float) -> None:
        """Time passes at once, up to a point; then the watch is left waiting."""
        self.naps.append(seconds)
        if len(self.naps) > 12:
            await asyncio.Event().wait()
        await _turn()

    def tell(self, change: LinkChange, name: str = "", master: int = 0, mtu: int = 0) -> None:
        self.links.tell(LinkEvent(change=change, name=name, master=master, address=b"", mtu=mtu))


async def _turn() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


async def turns(count: int = 200) -> None:
    for _ in range(count):
        await _turn()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    def play(test: Callable[[Bench], Awaitable[None]]) -> None:
        async def main() -> None:
            monkeypatch.setattr(module, "LinkWatcher", Links)
            bench = Bench(Host())
            monkeypatch.setattr(module, "ensure_rules", lambda _bridge: _next_rule(bench))
            monkeypatch.setattr(module, "host_ends", lambda host, _bridge: host.ends)
            monkeypatch.setattr(module, "find_link", lambda host, name: host.found)
            monkeypatch.setattr(asyncio, "sleep", bench.sleep)
            try:
                await test(bench)
            finally:
                await bench.watch.close()
                monkeypatch.undo()
            assert bench.watch._tasks == set()

        asyncio.run(main())

    return play


def _next_rule(bench: Bench) -> bool:
    answer = bench.rules.pop(0) if bench.rules else False
    if isinstance(answer, OSError):
        raise answer
    return answer


Run = Callable[[Callable[[Bench], Awaitable[None]]], None]


# ── links


def test_a_host_end_that_goes_is_told_and_other_links_are_not(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.tell(LinkChange.REMOVED, "mv0123456789")
        bench.tell(LinkChange.REMOVED, "eth7")
        bench.tell(LinkChange.PRESENT, "mv0123456789")
        await turns()
        assert bench.host.log == [("link_removed", "mv0123456789")]

    run(test)


def test_a_device_that_somebody_changed_is_put_right(run: Callable[[Callable[[Bench], Awaitable[None]]], None]) -> None:
    """Not one that is new, nor one that is as it was; and what it was when the watch began is known."""

    async def test(bench: Bench) -> None:
        host = bench.host
        for mtu in (1500, 1500):
            bench.tell(LinkChange.PRESENT, "meshd", mtu=mtu)
        await turns()
        assert host.log == []
        bench.tell(LinkChange.PRESENT, "meshd", mtu=1000)
        await turns()
        assert host.log == [("devices",)]
        bench.tell(LinkChange.REMOVED, "meshd")
        bench.tell(LinkChange.PRESENT, "meshd", mtu=1500)
        await turns()
        assert host.log == [("devices",)] * 2
        host.found = SimpleNamespace(mac=b"", mtu=1372, master=7)
        bench.watch.start()
        await turns()
        bench.tell(LinkChange.PRESENT, "meshd-tap", mtu=1400, master=7)
        await turns()
        assert host.log.count(("devices",)) == 3

    run(test)


@pytest.mark.parametrize("port", ["meshd-tap", "mv1"])
def test_a_port_that_is_out_of_the_bridge_is_looked_after(
    run: Callable[[Callable[[Bench], Awaitable[None]]], None], port: str
) -> None:
    """Neither one that is being removed nor one that is back by the time of the look is."""

    async def test(bench: Bench) -> None:
        host = bench.host
        bench.tell(LinkChange.PRESENT, port)
        await turns()
        host.found = SimpleNamespace(master=7)
        bench.tell(LinkChange.PRESENT, port)
        await turns()
        host.found = SimpleNamespace(master=0)
        bench.tell(LinkChange.PRESENT, port, master=7)
        for other in ("meshd", "mv9", "eth0"):
            bench.tell(LinkChange.PRESENT, other)
        await turns()
        assert host.log == []
        bench.tell(LinkChange.PRESENT, port)
        await turns()
        assert host.log == [("devices",)]
        host.restoring = asyncio.Event()
        bench.tell(LinkChange.REMOVED, "meshd")
        await turns()
        bench.tell(LinkChange.PRESENT, port)  # while a repair is under way, which may have passed it by
        await turns()
        assert host.log == [("devices",)] * 2
        host.restoring.set()
        await turns()
        assert host.log == [("devices",)] * 3

    run(test)


def test_bridge_and_tap_are_restored_once_for_both(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.tell(LinkChange.REMOVED, "meshd-tap")
        bench.tell(LinkChange.REMOVED, "meshd")
        await turns()
        assert bench.host.log == [("devices",)]
        bench.tell(LinkChange.REMOVED, "meshd")
        await turns()
        assert bench.host.log == [("devices",)] * 2

    run(test)


def test_restoring_is_tried_until_it_works(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        bench.host.restore_failures = [OSError(16, "Device or resource busy"), UserError("an interface exists")]
        bench.watch.devices_lost()
        await turns()
        assert bench.host.log == [("devices",)] * 3
        assert bench.naps == [RESTORE_RETRY_S] * 2

    run(test)
    assert caplog.text.count("cannot restore what frames are captured on yet") == 2


def test_a_bug_in_restoring_is_logged_and_the_next_loss_is_served(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        bench.host.restore_failures = [ZeroDivisionError()]
        for _ in range(2):
            bench.watch.devices_lost()
            await turns()
        assert bench.host.log == [("devices",)] * 2

    with caplog.at_level(logging.ERROR):
        run(test)
    assert "ZeroDivisionError" in caplog.text


def test_lost_events_are_made_good_by_a_look_at_everything(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        bench.tell(LinkChange.RESYNC)
        await turns()
        assert bench.host.log == [("resync", ("mv1", "mv2")), ("devices",)]
        bench.host.netlink_failure = OSError(105, "No buffer space")
        bench.tell(LinkChange.RESYNC)
        await turns()
        assert bench.host.log[2:] == [("devices",)]  # the devices are looked after all the same

    run(test)
    assert "cannot list the interfaces" in caplog.text


def test_a_storm_that_loses_events_again_and_again_leads_to_no_storm_of_looks(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(20):
            bench.tell(LinkChange.RESYNC)
        await turns()
        assert bench.host.log.count(("resync", ("mv1", "mv2"))) == 1
        bench.host.looking = asyncio.Event()
        for _ in range(20):
            bench.tell(LinkChange.RESYNC)
            await turns(1)
        bench.host.looking.set()
        await turns()
        assert (
            bench.host.log.count(("resync", ("mv1", "mv2"))) == 3
        )  # one that was under way, one for all that came meanwhile

    run(test)


def test_nothing_begins_after_the_end(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.watch.start()
        await bench.watch.close()
        assert (bench.links.started, bench.links.stopped) == (1, 1)
        for name in ("mv0123456789", "meshd"):
            bench.tell(LinkChange.REMOVED, name)
        await turns()
        assert bench.host.log == []

    run(test)


# ── firewall


def test_the_rule_is_put_back_and_failures_end_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        bench.rules = [False, True, OSError(5, "xtables is locked"), True]
        bench.watch.start()
        async with asyncio.timeout(20):
            while bench.rules:
                await _turn()
        assert bench.naps[:4] == [module.RECHECK_S] * 4
        assert bench.host.guards_looked_at >= 3

    run(test)
    assert caplog.text.count("somebody removed the firewall rule") == 2
    assert caplog.text.count("cannot check the firewall") == 1


# ── Docker


def event(action: str, container: str = "c0ffee") -> DockerEvent:
    return DockerEvent(action=action, id=container, name="web", time_ns=0)


def test_docker_is_asked_only_while_somebody_wants_it(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.watch.follow_docker()
        await turns()
        assert bench.host.log == []
        bench.host.wants_docker = True
        bench.watch.follow_docker()
        bench.watch.follow_docker()
        await turns()
        assert bench.host.log == [("connect",), ("reconcile",)]  # one connection, and everything was looked at
        bench.host.wants_docker = False
        bench.host.events_now.put_nowait(None)
        await turns()
        assert bench.host.log == [("connect",), ("reconcile",)]
        bench.host.wants_docker = True
        bench.watch.follow_docker()  # after the end it begins again
        await turns()
        assert bench.host.log == [("connect",), ("reconcile",)] * 2

    run(test)


def test_starts_names_and_removals_are_passed_on(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.host.wants_docker = True
        bench.watch.follow_docker()
        for action in ("start", "die", "rename", "destroy"):
            bench.host.events_now.put_nowait(event(action))
        await turns()
        assert bench.host.log[2:] == [("restore", "c0ffee"), ("renamed", "c0ffee", "web"), ("removed", "c0ffee")]

    run(test)


def test_docker_that_is_away_is_asked_again_ever_more_rarely(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        bench.host.wants_docker = True
        bench.host.failures = [UserError("Docker does not answer")] * 6
        bench.watch.follow_docker()
        await turns(500)
        assert bench.naps == [*DOCKER_RETRY_S, DOCKER_RETRY_S[-1], DOCKER_RETRY_S[-1]]
        assert bench.host.log == [("connect",)] * 7 + [("reconcile",)]
        bench.host.events_now.put_nowait(UserError("Docker went away"))
        await turns()
        assert bench.naps[-1] == DOCKER_RETRY_S[0]  # it had answered: quickly again
        assert bench.host.log[8:] == [("connect",), ("reconcile",)]

    with caplog.at_level(logging.INFO):
        run(test)
    assert caplog.text.count("are not to be had") == 2  # once for each time that it is away
