"""The guards on containers' host ends: put in force before an interface joins the bridge, watched, counted, taken away.

A guard that the kernel or a missing `nft` refuses costs the attachment nothing but the guard: a notice says so. Only where the
user asked for port security is it an error, since traffic without it is just what was not wanted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from meshd.capture.guards import Guard, available, guard_counters, of_interfaces, remove_guard, set_guards
from meshd.errors import UserError

__all__ = ["Guards", "PortGuards"]

_log = logging.getLogger(__name__)

COUNT_EVERY_S = 0.5
AT_ONCE = 64  # guards in one call of nft, whose time grows with the square
_NO_NFT = "nft is not installed: no guards on containers' interfaces; install nftables"


class PortGuards(Protocol):
    """What attachments need of it."""

    def check(self, guard: Guard) -> None: ...

    def put(self, guard: Guard) -> None: ...

    async def put_all(self, guards: Sequence[Guard]) -> None: ...

    async def remove(self, host_ifname: str) -> None: ...

    def drops(self, host_ifname: str) -> dict[str, int]: ...


class Guards:
    """`problem`: why there are none, "" while there are. Methods without `async` block, but for `check` and `drops`."""

    def __init__(self, bridge: str) -> None:
        self._bridge = bridge
        self._wanted: dict[str, Guard] = {}
        self._counts: Mapping[str, Mapping[str, int]] = MappingProxyType({})
        self._counted_at = float("-inf")
        self.problem = "" if available() else _NO_NFT
        if self.problem:
            _log.warning("%s", self.problem)

    def check(self, guard: Guard) -> None:
        """Before anything is changed. Raises UserError for port security that cannot be."""
        if guard.port_security and not available():
            raise UserError("--port-security needs nft, and it is not installed", hint="install nftables")

    def put(self, guard: Guard) -> None:
        """In force when it returns, whatever was before. Raises UserError only for port security."""
        try:
            if available():
                set_guards(self._bridge, [guard])
                self.problem = ""
        except OSError as error:
            if guard.port_security:
                self._wanted.pop(guard.host_ifname, None)
                raise UserError(f"--port-security cannot be had here: {error.strerror}") from error
            self._trouble(error)
        self._wanted[guard.host_ifname] = guard  # afterwards: until then nobody needs to miss it

    async def put_all(self, guards: Sequence[Guard]) -> None:
        """Of attachments that are plugged in already."""
        self._wanted.update((guard.host_ifname, guard) for guard in guards)
        if guards and available():
            await asyncio.to_thread(self._put_all, guards)

    def _put_all(self, guards: Sequence[Guard]) -> None:
        there = of_interfaces(guards)
        try:
            for at in range(0, len(there), AT_ONCE):
                set_guards(self._bridge, there[at : at + AT_ONCE])
        except OSError as error:
            self._trouble(error)
        else:
            self.problem = ""

    def _trouble(self, error: OSError) -> None:
        text = f"no guards on containers' interfaces: {error.strerror}"
        if text != self.problem:
            _log.warning("%s", text)
        self.problem = text

    async def remove(self, host_ifname: str) -> None:
        if self._wanted.pop(host_ifname, None) is None or not available():
            return
        try:
            await asyncio.to_thread(remove_guard, self._bridge, host_ifname)
        except OSError as error:
            _log.warning("cannot remove the guard of %s: %s", host_ifname, error.strerror)

    def drops(self, host_ifname: str) -> dict[str, int]:
        return dict(self._counts.get(host_ifname, {}))

    async def count(self) -> None:
        """Read the counters, unless that was just done."""
        if self._wanted and time.monotonic() - self._counted_at >= COUNT_EVERY_S and available():
            await self._read()

    async def _read(self) -> bool:
        self._counted_at = time.monotonic()
        try:
            self._counts = await asyncio.to_thread(guard_counters, self._bridge)
        except OSError as error:
            _log.warning("cannot read the counters of the guards: %s", error.strerror)
            return False
        return True

    async def recheck(self) -> None:
        """Others flush nftables without a word: put back what is missing."""
        if not self._wanted or not available():
            return
        read = await self._read()
        wanted = list(self._wanted.items())  # the netlink thread adds to it
        missing = [guard for name, guard in wanted if name not in self._counts]
        if read and not missing:
            self.problem = ""
        if missing and not self.problem:
            _log.warning("somebody removed the guards of %d containers: they are back", len(missing))
        await self.put_all(missing)
