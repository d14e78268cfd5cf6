"""The composition root: opens what a router needs, wires it together, takes it apart again.

    survey the underlay → sockets, bridge, TAP → node + engine + driver → control streams → adopted attachments → control socket

Everything after the first step is undone if a later one refuses; at an ordinary end only what makes the mesh go away: bridge,
containers' interfaces and the firewall rule stay, so that local traffic goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from meshd import __version__
from meshd.capture.docker import DockerClient
from meshd.capture.netlink import Netlink
from meshd.capture.veth import Mtus, host_ends
from meshd.config import LaunchOptions, NodeConfig, Paths
from meshd.control.api import AttachRequest, AttachResult, CaptureRequest, DetachRequest, DetachResult
from meshd.control.server import serve
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey
from meshd.daemon.advertised import parse_advertised
from meshd.daemon.attachments import Attachments
from meshd.daemon.devices import bridge_mac, open_devices, survey
from meshd.daemon.driver import Driver, KnownHosts
from meshd.daemon.guards import Guards
from meshd.daemon.inquiries import Inquiries
from meshd.daemon.keys import load_identity, load_key
from meshd.daemon.launch import ReadyAnswer
from meshd.daemon.loops import Loops
from meshd.daemon.mirrors import Mirror, Mirrors
from meshd.daemon.plugging import Plugging
from meshd.daemon.selection import known_words, select
from meshd.daemon.state import State, StateWriter
from meshd.daemon.watch import Watch
from meshd.errors import UserError
from meshd.forward.engine.choice import choose_engine
from meshd.forward.engine.interface import Engine, Upcalls
from meshd.ids import Endpoint, HostId, Mac, host_name, parse_mac, short_id
from meshd.node import Node
from meshd.views import BridgeView, NodeView, PingView, RouterView, TraceView

__all__ = ["Router", "resident_mib"]

_log = logging.getLogger(__name__)


class Router:
    """One running router. `stop` is called when a user asks for the end."""

    def __init__(
        self, options: LaunchOptions, paths: Paths, stop: Callable[[], None], *, restarted: bool = False
    ) -> None:
        self._options = options
        self._paths = paths
        self._stop = stop
        self._restarted = restarted
        self._clock = time.monotonic
        self._started = self._clock()
        self._closing = contextlib.AsyncExitStack()
        self._ready = False
        self._warnings: tuple[str, ...] = ()  # of the start, for `launch`
        self._complete = False  # the start: from then on what it made stays at the end
        self._boot_task: asyncio.Task[None] | None = None
        self._hosts_task: asyncio.Task[None] | None = None

    # ── start

    async def start(self) -> None:
        """Raises UserError where something refuses; then nothing of the start is left."""
        try:
            await self._start()
        except OSError as error:
            await self.close()
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
            raise UserError(
                f"cannot start: {what}", hint="`meshd launch --foreground` shows what came before"
            ) from error
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        identity, key = await asyncio.to_thread(self._load_secrets)
        state = await asyncio.to_thread(State, self._paths.database)
        self._warnings = (state.warning,) if state.warning else ()
        self._writer = StateWriter(state)
        self._closing.callback(self._writer.close)
        boot = await asyncio.to_thread(_raise_boot, state)
        targets = self._choose_targets(state)
        self._netlink = Netlink()
        self._closing.callback(self._netlink.close)
        self._underlay = await self._netlink.run(lambda ipr: survey(ipr, self._options))
        self._mac = bridge_mac(key.mesh_id, identity.host_id)
        self._devices = await open_devices(self._netlink, self._options, self._mac, self._underlay.interface_mtu)
        self._closing.push_async_callback(self._close_devices)
        if self._devices.capturing.bridge:
            await self._writer.run(partial(_add_bridge, name=self._devices.capturing.bridge))
        remembered = await asyncio.to_thread(state.hosts) if self._options.resume or self._restarted else {}
        self._compose(identity, key, boot, targets, remembered)
        self._closing.push_async_callback(self._driver.close)
        self._closing.callback(self._leave)
        await self._driver.streams.listen(self._options.host, self._options.port)
        await self._start_attachments(state, key)
        self._driver.start()
        server = await serve(self._paths.socket, self)
        self._closing.push_async_callback(server.cleanup)
        self._closing.callback(self._mirrors.close)  # first: the server waits for what is under way
        await self._writer.run(partial(State.set_targets, targets=targets))
        self._ready = self._complete = True
        _log.info(
            "%s is ready: %s, UDP and TCP port %d",
            self._node.label,
            self._devices.capturing.describe(),
            self._options.port,
        )

    def _load_secrets(self) -> tuple[Identity, MeshKey]:
        return load_identity(self._paths), load_key(self._paths)

    def _choose_targets(self, state: State) -> tuple[str, ...]:
        """The peers named at launch, or with `--resume` and after a death those that are remembered."""
        if self._options.resume or self._restarted:
            return state.targets()
        return self._options.peers

    def _compose(
        self,
        identity: Identity,
        key: MeshKey,
        boot: int,
        targets: tuple[str, ...],
        remembered: Mapping[HostId, tuple[Endpoint, ...]],
    ) -> None:
        frames = self._devices.capturing.port
        if frames is None:
            raise UserError("the port for frames is gone before the router was ready", hint="launch again")
        config = self._node_config(identity)
        self._engine: Engine
        engine_type, self._engine_reason = choose_engine(
            self._options.engine, self._options.pump, descriptors=self._options.capture_interface is None
        )
        _log.info("the engine is %s (%s)", engine_type.name, self._engine_reason)

        def make_engine(upcalls: Upcalls) -> Engine:
            self._engine = engine_type(
                frames=frames,
                ports=self._devices.ports,
                upcalls=upcalls,
                origin=short_id(identity.host_id),
                boot=boot & 0xFFFF_FFFF,
                clock=self._clock,
            )
            return self._engine

        self._node = Node(
            config,
            identity,
            key,
            boot=boot,
            targets=targets,
            make_engine=make_engine,
            entropy=os.urandom,
            rng=random.Random(os.urandom(16)),
            now=self._clock(),
            remembered=remembered,
            work_clock=time.thread_time,
        )
        self._mirrors = Mirrors(
            self._engine, lambda slot: self._node.directory.label_of(self._node.peers.slots.peer(slot))
        )
        self._driver = Driver(
            node=self._node,
            engine=self._engine,
            frames=frames,
            ports=self._devices.ports,
            side_ports=self._devices.side_ports,
            steer=self._devices.steer,
            clock=self._clock,
            tap_lost=self._tap_lost,
            persist_boot=self._persist_boot,
            remember_hosts=self._remember_hosts,
            block_port=lambda mac: self._loops.block(mac),
            answered=lambda answer: self._inquiries.answered(answer),
        )

        self._loops = Loops(self._netlink, self._devices.capturing, self._node.notices, self._clock)
        self._closing.push_async_callback(self._loops.close)
        self._inquiries = Inquiries(self._node, self._driver.wake, self._clock)

    def _node_config(self, identity: Identity) -> NodeConfig:
        options = self._options
        return NodeConfig(
            name=parse_mac(options.name) if options.name else host_name(identity.host_id),
            nickname=options.nickname or "",
            version=__version__,
            port=options.port,
            advertise=parse_advertised(options.advertise, options.port),
            endpoints=self._underlay.endpoints,
            own_addresses=self._underlay.own_addresses,
            discovery=options.discovery,
            mtu=self._underlay.interface_mtu,
            underlay_mtu=self._underlay.mtu,
            rekey_interval_s=options.rekey_interval_s or 120.0,
        )

    async def _start_attachments(self, state: State, key: MeshKey) -> None:
        docker = DockerClient()
        self._closing.push_async_callback(docker.close)
        self._guards = Guards(self._devices.capturing.bridge)
        mtu = self._underlay.interface_mtu
        plugging = Plugging(
            netlink=self._netlink,
            guards=self._guards,
            bridge=self._devices.capturing.bridge,
            mtus=Mtus(self._devices.capturing.host_mtu or mtu, mtu),
            mesh_id=key.mesh_id,
            host_id=self._node.host_id,
        )
        self._attachments = Attachments(
            directory=_Directory(self._node, self._driver, self._clock),
            engine=docker,
            guards=self._guards,
            plugging=plugging,
            remember=self._writer.run,
            notice=lambda text: self._node.notices.add(text, self._clock()),
        )
        ends = await self._netlink.run(lambda ipr: host_ends(ipr, plugging.bridge))
        await self._attachments.adopt(state.attachments(), ends)
        await self._loops.start()
        self._watch = Watch(
            attachments=self._attachments,
            docker=docker,
            netlink=self._netlink,
            bridge=self._devices.capturing.bridge,
            own_links=self._devices.capturing.links,
            has_rule=self._devices.capturing.has_rule,
            restore_devices=self._restore_devices,
            restore_guards=self._guards.recheck,
        )
        self._watch.start()
        self._closing.push_async_callback(self._watch.close)

    # ── end

    async def close(self) -> None:
        """Say goodbye to the peers and let go of everything. May be called again."""
        self._ready = False
        await self._closing.aclose()

    def _leave(self) -> None:
        self._node.leave(self._clock())

    async def _close_devices(self) -> None:
        """After the driver: nobody may wait for a descriptor that is closed."""
        if self._complete:
            self._devices.close()
        else:
            await self._netlink.run(self._devices.undo)

    # ── what others did to our devices

    def _tap_lost(self) -> None:
        _log.warning("%s was removed: looking for it", self._devices.capturing.describe())
        self._watch.devices_lost()

    async def _restore_devices(self) -> None:
        """What frames are captured on as it should be, whatever of it is missing."""
        capturing = self._devices.capturing
        if await self._netlink.run(capturing.mend):
            return
        if capturing.port is not None:
            self._driver.drop_frames()
            capturing.close()
        frames = await self._netlink.run(capturing.reopen)
        self._driver.replace_frames(frames)  # first: if joining fails, the next attempt only joins what it finds
        await self._netlink.run(capturing.join)

    def _persist_boot(self, at_least: int) -> None:
        """The mesh knows a later life of this host: go beyond it, on disk first."""

        def raised(state: State) -> None:
            boot = state.raise_boot(at_least)
            loop.call_soon_threadsafe(self._driver.boot_raised, boot)

        loop = asyncio.get_running_loop()
        self._boot_task = loop.create_task(self._writer.run(raised, keep=False))

    def _remember_hosts(self, hosts: KnownHosts) -> None:
        self._hosts_task = asyncio.get_running_loop().create_task(
            self._writer.run(partial(State.set_hosts, hosts=hosts), keep=False)
        )

    # ── what users ask for (control.server.ControlHandlers)

    def ready(self) -> bool:
        return self._ready

    def version(self) -> tuple[str, int]:
        return __version__, os.getpid()

    def ready_answer(self) -> ReadyAnswer:
        """What `launch` is told."""
        return ReadyAnswer(
            name=self._node.name,
            nickname=self._node.nickname,
            pid=os.getpid(),
            addresses=list(self._underlay.endpoints),
            warnings=[*self._warnings, *self._devices.capturing.warnings],
        )

    def _node_view(self) -> NodeView:
        """The node's view, with what was dropped before the engine could read it, and what is not guarded."""
        view = self._node.view(self._clock())
        drops = dict(view.drops)
        for reason, count in self._devices.capturing.drops().items():
            drops[reason] = drops.get(reason, 0) + count
        problems = filter(None, (self._guards.problem, self._writer.problem))
        return replace(view, drops=drops, notices=(*view.notices, *problems))

    async def refresh(self) -> None:
        await asyncio.gather(self._guards.count(), asyncio.to_thread(self._devices.capturing.count))

    def view(self) -> RouterView:
        capturing = self._devices.capturing
        return RouterView(
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(self._clock() - self._started, 3),
            node=self._node_view(),
            engine=self._engine.name,
            engine_reason=self._engine_reason,
            capture=capturing.describe(),
            bridge=capturing.bridge,
            mtu=self._underlay.interface_mtu,
            offloads=", ".join([*capturing.offloads(), *self._devices.port_offloads()]),
            attachments=self._attachments.views(),
            loop=self._driver.loop_view(),
            rss_mib=round(resident_mib(), 1),
        )

    def bridge(self) -> BridgeView:
        return BridgeView(
            bridge=self._devices.capturing.bridge,
            mtu=self._underlay.interface_mtu,
            attachments=self._attachments.views(),
        )

    async def attach(self, request: AttachRequest) -> AttachResult:
        result = await self._attachments.attach(request)
        self._watch.follow_docker()
        return result

    async def detach(self, request: DetachRequest) -> DetachResult:
        return await self._attachments.detach(request)

    async def capture(self, request: CaptureRequest) -> Mirror:
        known = known_words(self._node)
        return self._mirrors.open(select(request.words, known))

    async def connect(self, peers: tuple[str, ...], replace: bool) -> None:
        self._node.connect(peers, replace=replace, now=self._clock())
        await self._targets_changed()

    async def forget(self, peers: tuple[str, ...]) -> None:
        self._node.forget(peers, now=self._clock())
        await self._targets_changed()

    async def _targets_changed(self) -> None:
        self._driver.wake()
        await self._writer.run(partial(State.set_targets, targets=self._node.targets()))

    async def ping(self, target: str) -> PingView:
        return await self._inquiries.ping(target)

    async def trace(self, target: str) -> TraceView:
        return await self._inquiries.trace(target)

    async def stop(self) -> None:
        self._stop()


class _Directory:
    """The node as the attachments see it."""

    def __init__(self, node: Node, driver: Driver, clock: Callable[[], float]) -> None:
        self._node = node
        self._driver = driver
        self._clock = clock

    def attach(self, attachment_id: str, label: str, name: str, mac: Mac, addresses: Sequence[str]) -> None:
        self._node.attach(attachment_id, label=name or label, mac=mac, addresses=tuple(addresses), now=self._clock())
        self._driver.wake()

    def detach(self, attachment_id: str) -> None:
        self._node.detach(attachment_id, now=self._clock())
        self._driver.wake()

    def address_holder(self, address: str, not_of: str) -> str | None:
        return self._node.directory.address_holder(address, not_of)


def resident_mib() -> float:
    """What this process holds of the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _raise_boot(state: State) -> int:
    try:
        return state.raise_boot()
    except sqlite3.Error as error:
        raise UserError(
            f"cannot write the state of this host: {error}", hint="is the disk full, or mounted read-only?"
        ) from error


def _add_bridge(state: State, *, name: str) -> None:
    state.add_bridge(name)
