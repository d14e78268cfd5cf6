"""Containers in and out of the mesh: resolve, claim, plug, announce; and back.

An attachment belongs to a *network namespace*: containers that share one share the attachment, and it leaves the tables when the
kernel removes the namespace, and with it the host end of the veth (`link_removed`). What the user asked for is remembered, so that
a container that is started again, or a router that is, finds its MAC and addresses as they were.

The order in `attach`: the mesh learns of MAC and addresses first (so that the first frame finds them known), then the interface is
plugged in, which announces them. When plugging fails the mesh forgets again: all or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from meshd.capture.containers import ContainerEngine, Target, resolve_target
from meshd.capture.netns import Inode, host_namespace_inode
from meshd.capture.veth import HostEnd
from meshd.control.api import AttachRequest, AttachResult, DetachRequest, DetachResult
from meshd.control.limits import MAX_ADDRESSES
from meshd.daemon.attachment import Attachment, merge_addresses, of_docker, only_called, short_id, split_addresses
from meshd.daemon.guards import PortGuards
from meshd.daemon.plugging import Plugging
from meshd.daemon.state import State, WantedAttachment
from meshd.errors import UserError
from meshd.ids import Mac, format_mac, parse_mac
from meshd.views import AttachmentView

__all__ = ["MAX_ATTACHMENTS", "AttachmentDirectory", "Attachments"]

_log = logging.getLogger(__name__)

MAX_ATTACHMENTS = 4096  # on one host; the records of more would not fit one origin's quota


class AttachmentDirectory(Protocol):
    """The mesh's side: the node. `addresses` are CIDRs."""

    def attach(self, attachment_id: str, label: str, name: str, mac: Mac, addresses: Sequence[str]) -> None: ...

    def detach(self, attachment_id: str) -> None: ...

    def address_holder(self, address: str, not_of: str) -> str | None:
        """Who else holds this address (a text for people), other than the attachment `not_of`."""
        ...


class Attachments:
    """All attachments of this host. One change at a time."""

    def __init__(
        self,
        *,
        directory: AttachmentDirectory,
        engine: ContainerEngine,
        guards: PortGuards,
        plugging: Plugging,
        remember: Callable[[Callable[[State], None]], Awaitable[None]],
        notice: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._engine = engine
        self._guards = guards
        self._plugging = plugging
        self._remember = remember
        self._notice = notice
        self._by_namespace: dict[Inode, Attachment] = {}
        self._wanted: dict[str, WantedAttachment] = {}
        self._misfits: set[str] = set()  # ids of those whose interface has the MTU of a former router
        self._removed: set[str] = set()  # containers that are gone while others still use their namespace
        self._change = asyncio.Lock()

    def views(self) -> tuple[AttachmentView, ...]:
        return tuple(one.view(self._guards.drops(one.host_end)) for one in self._by_namespace.values())

    @property
    def wants_docker(self) -> bool:
        """True while a Docker container is attached, or would be if it ran: its events matter."""
        return any(map(of_docker, self._wanted))

    def has_host_end(self, ifname: str) -> bool:
        return any(one.host_end == ifname for one in self._by_namespace.values())

    def _attached(self, attachment_id: str) -> Attachment | None:
        return next((one for one in self._by_namespace.values() if one.id == attachment_id), None)

    async def _in(self, target: Target) -> Attachment | None:
        """What is attached in this namespace; not in one that has ended, and that this one has the number of (the kernel gives the
        lowest free one): that its interface is gone is told later."""
        present = self._by_namespace.get(target.namespace.inode)
        if present is None or await self._plugging.is_there(present.host_end):
            return present
        await self._withdraw(present)
        if present.id != target.full_id:  # else its interface alone is gone, and it gets what it had
            await self._gone(present)
        return None

    # ── in

    async def attach(self, request: AttachRequest) -> AttachResult:
        """Raises UserError, and then nothing has changed."""
        async with self._change:
            if not self._plugging.bridge:
                raise UserError(
                    "this router captures on an interface that is no bridge: there is nothing to plug a container into",
                    hint="launch it with --capture tap, or pcap:BRIDGE",
                )
            target = await resolve_target(request.container, self._engine)
            return await self._attach(target, request)

    async def _attach(self, target: Target, request: AttachRequest, mac: Mac | None = None) -> AttachResult:
        inode = target.namespace.inode
        if inode == host_namespace_inode():
            raise UserError(
                f"{request.container} uses the host's network: there is no interface of its own to attach",
                hint="run it with a network of its own",
            )
        present = await self._in(target)
        others = sum(attachment.id != target.full_id for attachment in self._by_namespace.values())
        if present is None and others >= MAX_ATTACHMENTS:
            raise UserError(f"this host has {MAX_ATTACHMENTS} attachments, and that is the limit")
        wanted = present or self._as_it_was(target, mac)
        self._refuse_taken(request.addresses, wanted.id)
        wanted = replace(
            wanted,
            addresses=merge_addresses(wanted.addresses, request.addresses),
            ifname=request.ifname or wanted.ifname,
            port_security=wanted.port_security if request.port_security is None else request.port_security,
        )
        if len(wanted.addresses) > MAX_ADDRESSES:
            raise UserError(
                f"{request.container} would have more than {MAX_ADDRESSES} addresses, and that is the limit"
            )
        self._check_security(request.container, wanted)
        await self._leave_former(target, wanted.host_end)
        self._publish(wanted)
        try:
            plugged = await self._plugging.plug(target, wanted)
        except BaseException:
            await self._as_before(wanted, present)
            raise
        if plugged != wanted.mac:  # the interface was there before and keeps its own
            wanted = replace(wanted, mac=plugged)
            self._publish(wanted)
        self._by_namespace[inode] = wanted
        await self._want(wanted)
        shown = request.addresses or wanted.addresses
        return AttachResult(addresses=shown, mac=format_mac(wanted.mac), id=wanted.short)

    def _as_it_was(self, target: Target, mac: Mac | None) -> Attachment:
        new, before = self._plugging.new(target, mac), self._wanted.get(target.full_id)
        return new if before is None else new.with_all_of(before, lambda one: not self._held(one, new.id))

    def _held(self, address: str, attachment_id: str) -> str | None:
        return self._directory.address_holder(address, not_of=attachment_id)

    def _refuse_taken(self, addresses: Sequence[str], attachment_id: str) -> None:
        for address in addresses:
            holder = self._held(address, attachment_id)
            if holder is not None:
                raise UserError(
                    f"{address.split('/')[0]} is held by {holder}", hint="choose another address, or detach it there"
                )

    def _check_security(self, container: str, wanted: Attachment) -> None:
        if wanted.port_security and not wanted.addresses:
            raise UserError(
                f"{container} has no address, and with --port-security only its own may pass",
                hint=f"give it one: meshd attach --port-security 10.0.1.5/24 {container}",
            )
        self._guards.check(wanted.guard(wanted.mac))

    def _publish(self, attachment: Attachment) -> None:
        self._directory.attach(attachment.id, attachment.short, attachment.name, attachment.mac, attachment.addresses)

    async def _as_before(self, failed: Attachment, present: Attachment | None) -> None:
        if present is None:
            self._directory.detach(failed.id)
            await self._guards.remove(failed.host_end)
        else:
            self._publish(present)
            await self._guards.put_all([present.guard(present.mac)])

    async def _leave_former(self, target: Target, host_end: str) -> None:
        """Where this container, or this namespace, was plugged in before under another host end: nothing of it stays.

        A container that was started again has a new namespace; the old one ends with it, unless somebody else is in there still,
        who would go on using its MAC and addresses. A router that was launched with another bridge finds all on its former one.
        """
        inode = target.namespace.inode
        former = {
            wanted.host_end
            for wanted in self._wanted.values()
            if target.full_id == wanted.id or inode == Inode(*wanted.namespace)
        }
        for attachment in list(self._by_namespace.values()):
            if attachment.id == target.full_id and attachment.namespace != inode:
                del self._by_namespace[attachment.namespace]
                former.add(attachment.host_end)
        for end in former - {host_end}:
            await self._guards.remove(end)
            with contextlib.suppress(UserError):  # something else has taken that name
                if await self._plugging.unplug(end):
                    _log.info("%s is plugged in anew: %s, where it was, is removed", target.name, end)

    # ── out

    async def detach(self, request: DetachRequest) -> DetachResult:
        """Take addresses away, or with none given everything. Raises UserError, also for what is not attached."""
        async with self._change:
            target, refusal = None, UserError(f"{request.container} is not attached", hint="`meshd ps` lists what is")
            try:
                target = await resolve_target(request.container, self._engine)
            except UserError as error:
                refusal = error
            attachment = None if target is None else await self._in(target)
            resting = self._resting(request.container) if target is None else None
            if attachment is None:  # the word may name nothing any more, or something else, and be what listings show
                target, attachment = None, self._called(request.container)
            if attachment is None and resting is not None:
                return await self._detach_resting(resting, request)
            if attachment is None:
                raise refusal
            gone, left = split_addresses(request, attachment.addresses)
            if left:
                await self._take_addresses(target, replace(attachment, addresses=left), gone)
            else:
                await self._plugging.unplug(attachment.host_end)
                await self._forget(attachment)
            return DetachResult(addresses=gone, id=attachment.short)

    def _called(self, word: str) -> Attachment | None:
        """What is attached under this name or id. Others in its namespace keep it when the container, or the name, is gone."""
        return only_called(word, self._by_namespace.values())

    def _resting(self, word: str) -> WantedAttachment | None:
        """What would be attached again at its next start."""
        return only_called(word, [one for one in self._wanted.values() if self._attached(one.id) is None])

    async def _detach_resting(self, wanted: WantedAttachment, request: DetachRequest) -> DetachResult:
        """A container that does not run: nothing is plugged in, and nothing will be at its next start."""
        gone, left = split_addresses(request, wanted.addresses)
        if left:
            fewer = self._wanted[wanted.id] = replace(wanted, addresses=left)
            await self._remember(lambda state: state.put_attachment(fewer))
        else:
            await self._unwant(wanted.id)
        return DetachResult(addresses=gone, id=short_id(wanted.id))

    async def _take_addresses(self, target: Target | None, left: Attachment, gone: Sequence[str]) -> None:
        if target is None:
            raise UserError(
                f"{left.name} is gone, but what it shared its network with is not",
                hint=f"detach all of it: meshd detach {left.short}",
            )
        await self._plugging.take_addresses(target, left.ifname, gone)
        self._by_namespace[left.namespace] = left
        self._publish(left)
        await self._guards.put_all([left.guard(left.mac)])
        await self._want(left)

    async def _forget(self, attachment: Attachment) -> None:
        await self._withdraw(attachment)
        await self._unwant(attachment.id)

    async def _want(self, attachment: Attachment) -> None:
        wanted = attachment.wanted()
        self._wanted[wanted.id] = wanted
        await self._remember(lambda state: state.put_attachment(wanted))

    # ── what happens by itself

    async def link_removed(self, host_end: str) -> None:
        """A host end is gone: its namespace has ended, or somebody removed the interface alone: then it is plugged in again.

        Told late, it may be there anew.
        """
        async with self._change:
            ours = [attachment for attachment in self._by_namespace.values() if attachment.host_end == host_end]
            if not ours or await self._plugging.is_there(host_end):
                return
            for attachment in ours:
                await self._withdraw(attachment)
                if not await self._plugged_again(attachment):
                    await self._gone(attachment)

    async def _withdraw(self, attachment: Attachment) -> None:
        self._by_namespace.pop(attachment.namespace, None)
        self._directory.detach(attachment.id)
        await self._guards.remove(attachment.host_end)

    async def _gone(self, attachment: Attachment) -> None:
        _log.info("%s has gone, and its attachment with it", attachment.name)
        # a process or a named namespace: nobody starts it again under this name
        if not of_docker(attachment.id) or attachment.id in self._removed:
            await self._unwant(attachment.id)

    async def _plugged_again(self, attachment: Attachment) -> bool:
        try:
            target = await resolve_target(attachment.id, self._engine)
        except UserError:
            return False
        if target.namespace.inode != attachment.namespace:
            return False
        request = AttachRequest(
            container=attachment.id,
            addresses=attachment.addresses,
            ifname=attachment.ifname,
            port_security=attachment.port_security,
        )
        try:
            await self._attach(target, request, attachment.mac)
        except UserError as error:
            _log.info("%s cannot be plugged in again: %s", attachment.name, error)
            return False
        _log.warning("somebody removed the interface of %s: it is plugged in again", attachment.name)
        return True

    async def links_resync(self, present: Collection[str]) -> None:
        for attachment in list(self._by_namespace.values()):
            if attachment.host_end not in present:
                await self.link_removed(attachment.host_end)

    async def adopt(self, wanted: Sequence[WantedAttachment], host_ends: Mapping[str, HostEnd]) -> None:
        """At the router's start: what is still plugged in is ours again as it is; the rest is attached where it runs.

        Looking at the host ends first keeps what works without asking anybody: also while Docker is down, and where a shared
        namespace has outlived the container that it was attached by. The other containers of Docker's are left to `reconcile`,
        which follows once Docker answers: the router's start does not wait for that. Without a bridge there is none to adopt.
        Those that have another MTU than this router's get it as soon as their namespace is found.
        """
        if not self._plugging.bridge:
            return
        self._wanted.update((attachment.id, attachment) for attachment in wanted)
        for attachment in wanted:
            end = host_ends.get(attachment.host_end)
            if end is not None and end.mac != parse_mac(attachment.mac):
                end = None  # another container's, whose namespace has the number that this one's had
            if end is not None:
                self._take_over(attachment)
                if end.mtus != self._plugging.mtus:
                    self._misfits.add(attachment.id)
            if not of_docker(attachment.id) and (end is None or end.mtus != self._plugging.mtus):
                await self.restore(attachment.id)
        await self._guards.put_all([attachment.guard(attachment.mac) for attachment in self._by_namespace.values()])

    def _take_over(self, wanted: WantedAttachment) -> None:
        attachment = Attachment.remembered(wanted)
        try:
            self._publish(attachment)
        except UserError as error:
            _log.warning("%s stays plugged in, but is not announced: %s", attachment.name, error)
            return
        self._by_namespace[attachment.namespace] = attachment

    async def restore(self, attachment_id: str) -> None:
        """Attach again what the user once attached, if it runs; quietly leave it where it does not.

        One that runs and cannot be attached is a notice in `status`: nobody waits for an answer, and it is not in the mesh.
        """
        async with self._change:
            wanted = self._wanted.get(attachment_id)
            if wanted is None:
                return
            request = AttachRequest(
                container=attachment_id,
                addresses=wanted.addresses,
                ifname=wanted.ifname,
                port_security=wanted.port_security,
            )
            try:
                target = await resolve_target(attachment_id, self._engine)
                if await self._in(target) is not None and attachment_id not in self._misfits:
                    return
                if attachment_id.startswith("pid:") and target.namespace.inode != wanted.namespace:
                    raise UserError("another process has its number by now")
            except UserError as error:
                if self._attached(attachment_id) is not None:
                    return  # by those who share its network
                _log.info("%s is not attached again: %s", wanted.name, error)
                if attachment_id.startswith("pid:"):
                    await self._unwant(attachment_id)
                return
            try:
                await self._attach(target, request, parse_mac(wanted.mac))
            except UserError as error:
                attached = self._attached(attachment_id) is not None
                fate = "keeps the MTU of a former launch" if attached else "runs, but is not attached again"
                self._notice(f"{wanted.name} {fate}: {error}")
                return
            self._misfits.discard(attachment_id)
        _log.info("%s is attached again", wanted.name)

    async def reconcile(self) -> None:
        """The container engine may have told us nothing for a while: look at everything that should be attached.

        Raises UserError where the engine does not answer.
        """
        there = {container.id: container.names for container in await self._engine.list_containers()}
        for attachment_id in list(filter(of_docker, self._wanted)):
            if attachment_id not in there:
                await self.container_removed(attachment_id)
                continue
            for name in there[attachment_id][:1]:
                await self.container_renamed(attachment_id, name)
            # Also what is attached: it may have been started again, others keeping its network.
            await self.restore(attachment_id)

    async def container_removed(self, container_id: str) -> None:
        """`docker rm`: it will not come back. What it shared its namespace with stays attached until that ends."""
        async with self._change:
            if self._attached(container_id) is not None:
                self._removed.add(container_id)
            else:
                await self._unwant(container_id)

    async def container_renamed(self, container_id: str, name: str) -> None:
        """The mesh finds it under its new name; another container may have the old one at once."""
        async with self._change:
            wanted = self._wanted.get(container_id)
            if wanted is None or wanted.name == name:
                return
            attachment = self._attached(container_id)
            if attachment is not None:
                renamed = replace(attachment, name=name)
                try:
                    self._publish(renamed)
                except UserError as error:
                    _log.warning("%s keeps its former name %s in the mesh: %s", name, attachment.name, error)
                    return
                self._by_namespace[attachment.namespace] = renamed
            under = self._wanted[container_id] = replace(wanted, name=name)
            await self._remember(lambda state: state.put_attachment(under))

    async def _unwant(self, attachment_id: str) -> None:
        self._removed.discard(attachment_id)
        self._misfits.discard(attachment_id)
        if self._wanted.pop(attachment_id, None) is not None:
            await self._remember(lambda state: state.delete_attachment(attachment_id))
