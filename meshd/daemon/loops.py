"""Blocks the bridge port behind which a loop was seen, and opens it again after a quiet time.

The port is the one behind which the bridge has learned the probe's source MAC. It is taken down: nothing goes in or out. If the
loop is still there afterwards it is seen again within two seconds, and the port stays down twice as long, up to LONGEST_S. A
container's port that a router left down is opened by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial

from pyroute2 import IPRoute

from meshd.capture.bridge import block_port, blocked_ports, open_port, port_behind
from meshd.capture.netlink import Netlink
from meshd.capture.veth import host_ends
from meshd.daemon.capturing import Capturing
from meshd.ids import Mac
from meshd.node.notices import Notices

__all__ = ["FIRST_S", "LONGEST_S", "Loops"]

_log = logging.getLogger(__name__)

FIRST_S = 60.0
LONGEST_S = 600.0
MAX_PORTS = 64  # whose last time is remembered


class Loops:
    """Each port that is blocked is a notice."""

    def __init__(self, netlink: Netlink, capturing: Capturing, notices: Notices, clock: Callable[[], float]) -> None:
        self._netlink = netlink
        self._bridge = capturing.bridge
        self._own_ports = capturing.links
        self._notices = notices
        self._clock = clock
        self._times: dict[str, float] = {}
        self._blocked: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        if self._bridge:
            for port in await self._netlink.run(self._left_blocked):
                self._blocked.add(port)
                self._spawn(self._open_later(port, FIRST_S))

    def _left_blocked(self, ipr: IPRoute) -> list[str]:
        """Containers' ends only: another port may be down because its owner wants it so."""
        ours = host_ends(ipr, self._bridge)
        return [port for port in blocked_ports(ipr, self._bridge) if port in ours]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for (
            port
        ) in self._blocked:  # who would open them, but for containers' ends, when this router does not start again?
            with contextlib.suppress(OSError):
                await self._netlink.run(partial(open_port, ifname=port))
        self._blocked.clear()

    def block(self, mac: Mac) -> None:
        if self._bridge:
            self._spawn(self._block(mac))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _block(self, mac: Mac) -> None:
        def block(ipr: IPRoute) -> str:
            """Never our own port: then the bridge has heard a later probe of ours, and the next one tells."""
            port = port_behind(ipr, self._bridge, mac)
            if not port or port in self._own_ports or port in self._blocked:
                return ""
            block_port(ipr, port)
            return port

        try:
            port = await self._netlink.run(block)
        except OSError as error:
            _log.warning("cannot block the port of a loop: %s", error)
            return
        if port:
            self._blocked.add(port)
            seconds = min(LONGEST_S, self._times.pop(port, FIRST_S / 2) * 2)
            self._times[port] = seconds
            while len(self._times) > MAX_PORTS:
                del self._times[next(iter(self._times))]
            text = f"a loop: {port} leads back to the mesh outside of it; it is taken down for {seconds:.0f} s"
            self._notices.add(text, self._clock())
            await self._open_later(port, seconds)

    async def _open_later(self, port: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._blocked.discard(port)
        try:
            await self._netlink.run(lambda ipr: open_port(ipr, port))
        except OSError as error:
            _log.info("%s is not opened again: %s", port, error)
