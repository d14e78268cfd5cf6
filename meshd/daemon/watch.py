"""What happens on the host without anybody telling the router: links that go, containers that start, rules that are flushed.

Three sources, each with a way to mend what it may have missed: link events of the kernel (lost ones: list all), Docker's events
(followed only while a Docker container is attached; after every new connection: look at all), and the firewall rule and the
guards every RECHECK_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

from meshd.capture.docker import DockerClient, DockerEvent
from meshd.capture.firewall import ensure_rules
from meshd.capture.link_watcher import LinkChange, LinkEvent, LinkWatcher
from meshd.capture.links import find_link
from meshd.capture.netlink import Netlink
from meshd.capture.veth import host_ends
from meshd.daemon.attachments import Attachments
from meshd.errors import UserError

__all__ = ["RECHECK_S", "Watch"]

_log = logging.getLogger(__name__)

RECHECK_S = 10.0  # as Weave's canary: others flush the firewall without a word
DOCKER_RETRY_S = (0.5, 1.0, 2.0, 5.0)
RESTORE_RETRY_S = 1.0


class Watch:
    """Runs on the loop; `close` ends all of it."""

    def __init__(
        self,
        *,
        attachments: Attachments,
        docker: DockerClient,
        netlink: Netlink,
        bridge: str,
        own_links: frozenset[str],
        has_rule: bool,
        restore_devices: Callable[[], Awaitable[None]],
        restore_guards: Callable[[], Awaitable[None]],
    ) -> None:
        self._attachments = attachments
        self._docker = docker
        self._netlink = netlink
        self._bridge = bridge
        self._restore_devices = restore_devices
        self._own_links = own_links
        self._facts: dict[str, tuple[bytes, int]] = {}  # of our links, as the kernel last told
        self._ports = own_links - {bridge} if bridge else frozenset()  # of the bridge, and ours
        self._has_rule = has_rule
        self._restore_guards = restore_guards
        self._links = LinkWatcher(asyncio.get_running_loop(), self._link_event)
        self._tasks: set[asyncio.Task[None]] = set()
        self._docker_task: asyncio.Task[None] | None = None
        self._restoring = False
        self._lost = False  # since the last look
        self._resyncing = False
        self._unsure = False  # events of links were lost since the last look at all of them
        self._closed = False

    def start(self) -> None:
        self._links.start()
        self._spawn(self._note_facts())
        self._spawn(self._recheck())
        self.follow_docker()

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._links.stop)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a bug in the watch over this host", exc_info=error)

    # ── links

    def _link_event(self, event: LinkEvent) -> None:
        if self._closed:
            return
        if event.change is LinkChange.RESYNC:
            self._unsure = True
            if not self._resyncing:
                self._resyncing = True
                self._spawn(self._resync())
        elif event.change is LinkChange.REMOVED:
            if event.name in self._own_links:
                self._facts.pop(event.name, None)
                self.devices_lost()
            elif event.name.startswith("mv"):
                self._spawn(self._attachments.link_removed(event.name))
        else:
            if event.name in self._own_links and self._is_changed(event):
                self.devices_lost()
            if not event.master and self._is_port(event.name):
                self._spawn(self._port_left(event.name))

    async def _note_facts(self) -> None:
        with contextlib.suppress(OSError):
            for name in self._own_links:
                link = await self._netlink.run(partial(find_link, name=name))
                if link is not None:
                    self._facts.setdefault(name, (link.mac, link.mtu))

    def _is_changed(self, event: LinkEvent) -> bool:
        """Whether somebody gave it another MAC or MTU; not when it is new."""
        facts = event.address, event.mtu
        before, self._facts[event.name] = self._facts.get(event.name, facts), facts
        return before != facts

    def _is_port(self, name: str) -> bool:
        return name in self._ports or (name.startswith("mv") and self._attachments.has_host_end(name))

    async def _port_left(self, port: str) -> None:
        """Taken out of the bridge, by a network manager say. So is one that is being removed, or joins: those are left alone."""
        with contextlib.suppress(OSError):
            link = await self._netlink.run(lambda ipr: find_link(ipr, port))
            if link is not None and not link.master:
                if not self._restoring:  # with the bridge, all of its ports are out of it
                    _log.warning("somebody took %s out of its bridge: it is put back", port)
                self.devices_lost()

    async def _resync(self) -> None:
        """One look at a time, and one more for all events that were lost meanwhile: under a storm they are lost again and again."""
        try:
            while self._unsure:
                self._unsure = False
                await self._look_at_links()
        finally:
            self._resyncing = False

    async def _look_at_links(self) -> None:
        try:
            present = await self._netlink.run(lambda ipr: host_ends(ipr, self._bridge))
        except OSError as error:
            _log.warning("cannot list the interfaces after events were lost: %s", error)
        else:
            await self._attachments.links_resync(present)
        self.devices_lost()

    def devices_lost(self) -> None:
        """What frames are captured on may be gone; bridge and TAP often go one after the other, so one repair is under way at a
        time."""
        self._lost = True
        if not self._restoring:
            self._restoring = True
            self._spawn(self._restore())

    async def _restore(self) -> None:
        told = ""
        try:
            while self._lost:
                self._lost = False  # what goes from here on has to be looked at once more
                try:
                    await self._restore_devices()
                except (OSError, UserError) as error:
                    if str(error) != told:  # an interface of others may be gone for long
                        told = str(error)
                        _log.warning("cannot restore what frames are captured on yet: %s", told)
                    self._lost = True
                    await asyncio.sleep(RESTORE_RETRY_S)
        finally:
            self._restoring = False

    # ── firewall

    async def _recheck(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            if self._has_rule:
                await self._recheck_rule()
            await self._restore_guards()

    async def _recheck_rule(self) -> None:
        try:
            if await asyncio.to_thread(ensure_rules, self._bridge):
                _log.warning("somebody removed the firewall rule for %s: it is back", self._bridge)
        except OSError as error:
            _log.warning("cannot check the firewall: %s", error)

    # ── Docker

    def follow_docker(self) -> None:
        """Begin to follow Docker's events, if a Docker container is attached and nobody follows them yet."""
        if self._attachments.wants_docker and (self._docker_task is None or self._docker_task.done()):
            self._docker_task = self._spawn(self._follow())

    async def _follow(self) -> None:
        failures = 0
        while self._attachments.wants_docker:
            try:
                async with self._docker.events() as events:
                    failures = 0
                    await self._attachments.reconcile()
                    async for event in events:
                        await self._docker_event(event)
            except UserError as error:
                if failures == 0:
                    _log.info("Docker's events are not to be had: %s", error)
            await asyncio.sleep(DOCKER_RETRY_S[min(failures, len(DOCKER_RETRY_S) - 1)])
            failures += 1

    async def _docker_event(self, event: DockerEvent) -> None:
        if event.action == "start":
            await self._attachments.restore(event.id)
        elif event.action == "rename":
            await self._attachments.container_renamed(event.id, event.name.removeprefix("/"))
        elif event.action == "destroy":
            await self._attachments.container_removed(event.id)
