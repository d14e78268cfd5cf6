"""Plugging in and out on this host: which bridge, which MTU, which MAC. What is done to the kernel, on Netlink's thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from functools import partial

from meshd.capture.containers import Target
from meshd.capture.links import find_link
from meshd.capture.netlink import Netlink
from meshd.capture.veth import Mtus, Plug, host_ifname, plug, remove_addresses, stable_mac, unplug
from meshd.config import DEFAULT_IFNAME
from meshd.daemon.attachment import Attachment, of_docker
from meshd.daemon.guards import PortGuards
from meshd.daemon.supersize import gso_max_size
from meshd.errors import UserError
from meshd.ids import HostId, Mac

__all__ = ["Plugging"]


class Plugging:
    """`bridge` is "" where there is none to plug into. `mtus`: what the ends get."""

    def __init__(
        self,
        *,
        netlink: Netlink,
        guards: PortGuards,
        bridge: str,
        mtus: Mtus,
        mesh_id: bytes,
        host_id: HostId,
    ) -> None:
        self.bridge = bridge
        self.mtus = mtus
        self._netlink = netlink
        self._guards = guards
        self._mesh_id = mesh_id
        self._host_id = host_id

    def new(self, target: Target, mac: Mac | None) -> Attachment:
        """One without addresses. The MAC is the same after a restart.

        Docker's ids are unique; `netns:web` and `pid:42` may be on every host.
        """
        seed = self._mesh_id + (b"" if of_docker(target.full_id) else self._host_id)
        return Attachment(
            namespace=target.namespace.inode,
            id=target.full_id,
            short=target.id,
            name=target.name,
            ifname=DEFAULT_IFNAME,
            host_end=host_ifname(target.namespace.inode, self.bridge),
            mac=mac or stable_mac(seed, target.full_id),
            addresses=(),
        )

    async def plug(self, target: Target, wanted: Attachment) -> Mac:
        """Returns the interface's MAC: one that was there keeps its own. Raises UserError, and then nothing has changed."""
        want = Plug(
            host_ifname=wanted.host_end,
            ifname=wanted.ifname,
            bridge=self.bridge,
            mac=wanted.mac,
            mtus=self.mtus,
            gso_max_size=gso_max_size(self.mtus.container),
            addresses=wanted.addresses,
        )
        descriptor = await asyncio.to_thread(target.namespace.open)
        try:
            plugged = await self._netlink.run(
                lambda ipr: plug(ipr, descriptor, want, lambda mac: self._guards.put(wanted.guard(mac)))
            )
        except OSError as error:
            raise UserError(f"cannot plug in {target.name}: {os.strerror(error.errno or 0).lower()}") from error
        finally:
            os.close(descriptor)
        return plugged.mac

    async def unplug(self, host_end: str) -> bool:
        """False if it is gone already. Raises UserError if that interface is not a veth."""
        return await self._netlink.run(partial(unplug, host_end=host_end))

    async def is_there(self, host_end: str) -> bool:
        with contextlib.suppress(OSError):
            return await self._netlink.run(lambda ipr: find_link(ipr, host_end)) is not None
        return False

    async def take_addresses(self, target: Target, ifname: str, addresses: Sequence[str]) -> None:
        """Raises UserError."""
        descriptor = await asyncio.to_thread(target.namespace.open)
        try:
            await asyncio.to_thread(remove_addresses, descriptor, ifname, addresses)
        except OSError as error:
            raise UserError(f"cannot take the address away: {os.strerror(error.errno or 0).lower()}") from error
        finally:
            os.close(descriptor)
