"""A host without a kernel: containers, what is plugged into them, the mesh's and the disk's side, for tests of attachments."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from pyroute2 import IPRoute

from meshd.capture.containers import ContainerDetails, ContainerSummary, Target
from meshd.capture.guards import Guard
from meshd.capture.netlink import Netlink
from meshd.capture.netns import Inode, NamespaceRef
from meshd.capture.veth import HostEnd, Mtus, Plug, Plugged, host_ifname
from meshd.control.api import AttachRequest, AttachResult, DetachRequest, DetachResult
from meshd.daemon import attachments as module
from meshd.daemon import plugging as plugging_module
from meshd.daemon.attachments import Attachments
from meshd.daemon.plugging import Plugging
from meshd.daemon.state import State, WantedAttachment
from meshd.errors import UserError
from meshd.ids import HostId, Mac

HOST_NAMESPACE = Inode(4, 1)
SEED = b"mesh id of tests"


@dataclass(slots=True)
class Namespace:
    """In the place of a NamespaceRef."""

    inode: Inode

    def open(self) -> int:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


@dataclass(slots=True)
class Container:
    id: str
    name: str
    namespace: int
    runs: bool = True


@dataclass(slots=True)
class World:
    """`log`: everything that was done to the mesh and to the machine, in order."""

    containers: dict[str, Container] = field(default_factory=dict)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    published: dict[str, tuple[Mac, tuple[str, ...]]] = field(default_factory=dict)
    plugged: dict[str, Plug] = field(default_factory=dict)  # by host end
    held: dict[str, str] = field(default_factory=dict)  # address → who else holds it
    disk: dict[str, WantedAttachment] = field(default_factory=dict)
    guarded: dict[str, Guard] = field(default_factory=dict)  # by host end
    no_nft: bool = False
    notices: list[str] = field(default_factory=list)
    plug_failure: Exception | None = None
    publish_failure: Exception | None = None
    engine_failure: UserError | None = None
    asked: int = 0  # how often the container engine was
    attachments: Attachments = field(init=False)

    def __post_init__(self) -> None:
        self.attachments = self.router()

    def router(self, bridge: str = "meshd", mtu: int = 1372, host_mtu: int = 0) -> Attachments:
        """A router that has just been started here."""
        plugging = Plugging(
            netlink=cast(Netlink, self),
            guards=self,
            bridge=bridge,
            mtus=Mtus(host_mtu or mtu, mtu),
            mesh_id=SEED,
            host_id=HostId(bytes(16)),
        )
        return Attachments(
            directory=self,
            engine=self,
            guards=self,
            plugging=plugging,
            remember=self.remember,
            notice=self.notices.append,
        )

    def container(self, name: str, namespace: int, runs: bool = True, id: str = "") -> Container:
        made = Container(id or f"{name}-{'0' * (63 - len(name))}", name, namespace, runs)
        self.containers[made.id] = made
        return made

    # the mesh

    def attach(self, attachment_id: str, label: str, name: str, mac: Mac, addresses: Sequence[str]) -> None:
        if self.publish_failure is not None:
            raise self.publish_failure
        self.published[attachment_id] = (mac, tuple(addresses))
        self.log.append(("publish", name, tuple(addresses)))

    def detach(self, attachment_id: str) -> None:
        self.published.pop(attachment_id, None)
        self.log.append(("withdraw", attachment_id))

    def address_holder(self, address: str, not_of: str) -> str | None:
        return self.held.get(address)

    # the container engine

    async def list_containers(self) -> Sequence[ContainerSummary]:
        self.asked += 1
        if self.engine_failure is not None:
            raise self.engine_failure
        return [ContainerSummary(id=box.id, names=(box.name,), state="") for box in self.containers.values()]

    async def inspect(self, container_id: str) -> ContainerDetails:
        raise AssertionError("resolve_target is replaced")

    async def resolve(self, word: str, _engine: object) -> Target:
        if ":" not in word:
            await self.list_containers()
        for box in self.containers.values():
            if word in (box.id, box.name):
                if not box.runs:
                    raise UserError(f"container {box.name} is exited")
                namespace = cast(NamespaceRef, Namespace(Inode(4, box.namespace)))
                short = box.id if ":" in box.id else box.id[:12]
                return Target(namespace=namespace, id=short, full_id=box.id, name=box.name, pid=1)
        raise UserError(f"no container {word!r}")

    # the machine

    async def run(self, fn: Callable[[IPRoute], Any]) -> Any:
        await asyncio.sleep(0)
        return fn(cast(IPRoute, None))

    def plug(self, _ipr: IPRoute, namespace_fd: int, want: Plug, guard: Callable[[Mac], None]) -> Plugged:
        os.fstat(namespace_fd)  # it is open
        self.log.append(("plug", want.host_ifname, tuple(want.addresses)))
        present = self.plugged.get(want.host_ifname)
        guard(present.mac if present else want.mac)
        if self.plug_failure is not None:
            raise self.plug_failure
        self.plugged[want.host_ifname] = want
        return Plugged(mac=present.mac if present else want.mac, created=present is None, added=())

    def unplug(self, _ipr: IPRoute, host_end: str) -> bool:
        self.log.append(("unplug", host_end))
        return self.plugged.pop(host_end, None) is not None

    def find_link(self, _ipr: IPRoute, name: str) -> object:
        return self.plugged.get(name)

    def remove_addresses(self, namespace_fd: int, ifname: str, texts: Sequence[str]) -> tuple[str, ...]:
        os.fstat(namespace_fd)
        self.log.append(("take", ifname, tuple(texts)))
        if self.plug_failure is not None:
            raise self.plug_failure
        return tuple(texts)

    # the guards

    def check(self, guard: Guard) -> None:
        if guard.port_security and self.no_nft:
            raise UserError("--port-security needs nft, and it is not installed")

    def put(self, guard: Guard) -> None:
        self.guarded[guard.host_ifname] = guard

    async def put_all(self, guards: Sequence[Guard]) -> None:
        for guard in guards:
            self.put(guard)

    async def remove(self, host_ifname: str) -> None:
        self.guarded.pop(host_ifname, None)

    def drops(self, host_ifname: str) -> dict[str, int]:
        return {"flood": 3} if host_ifname in self.guarded else {}

    # the disk

    async def remember(self, call: Callable[[State], None]) -> None:
        call(cast(State, self))

    def put_attachment(self, wanted: WantedAttachment) -> None:
        self.disk[wanted.id] = wanted

    def delete_attachment(self, attachment_id: str) -> None:
        self.disk.pop(attachment_id, None)

    # what users do

    async def plug_in(
        self, word: str, *addresses: str, ifname: str | None = None, port_security: bool | None = None
    ) -> AttachResult:
        request = AttachRequest(container=word, addresses=addresses, ifname=ifname, port_security=port_security)
        return await self.attachments.attach(request)

    async def take_out(self, word: str, *addresses: str) -> DetachResult:
        return await self.attachments.detach(DetachRequest(container=word, addresses=addresses))

    def end(self, word: str) -> str:
        """The container's process ends, and its namespace with it; the host end that the kernel removed."""
        box = next(box for box in self.containers.values() if word in (box.id, box.name))
        box.runs = False
        end = host_ifname(Inode(4, box.namespace), "meshd")
        self.plugged.pop(end, None)
        return end

    def ends(self) -> dict[str, HostEnd]:
        """The host ends that are plugged in."""
        return {name: HostEnd(plug.mac, plug.mtus) for name, plug in self.plugged.items()}

    def as_seen(self) -> tuple[dict[str, Any], dict[str, Plug], dict[str, WantedAttachment], Any]:
        """All that could have changed."""
        return dict(self.published), dict(self.plugged), dict(self.disk), self.attachments.views()


def make_world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(module, "resolve_target", world.resolve)
    monkeypatch.setattr(plugging_module, "plug", world.plug)
    monkeypatch.setattr(plugging_module, "unplug", world.unplug)
    monkeypatch.setattr(plugging_module, "find_link", world.find_link)
    monkeypatch.setattr(plugging_module, "remove_addresses", world.remove_addresses)
    monkeypatch.setattr(module, "host_namespace_inode", lambda: HOST_NAMESPACE)
    return world


def play(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end; no descriptor may be left open."""
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(work)
    assert len(os.listdir("/proc/self/fd")) == before
