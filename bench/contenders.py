"""What is measured, each in a lab of its own:

    plain          container ─ bridge ─ veth ─ bridge ─ container        no overlay: what the machine can do
    vxlan          … bridge ─ vxlan ══ host ─ veth ─ host ══ vxlan …     the kernel's overlay (flannel, Docker's), not encrypted
    meshd-native   … bridge ─ TAP ═ router ══ …                          the product: `meshd launch`, `meshd attach`
    meshd-loop     the same, the native engine pumping on the event loop (`--pump loop`)
    meshd-python   the same with the other engine
    the peers      … bridge, joined or routed ─ TAP, TUN ═ daemon ══ …   bench.peers

and `bare`, host to host, to which transfers over a long path with loss are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import ClassVar

from bench.contender import Contender, End
from bench.peers import PEERS
from bench.routers import Router
from bench.topology import UNDERLAY_DEVICE, BenchError, Lab
from meshd.forward.engine.native import native_missing

__all__ = ["CONTENDERS", "Bare", "Meshd", "MeshdNative", "MeshdPython", "Vxlan", "make"]

VXLAN_MTU = 1450  # 1500 - 50
PLAIN_DEVICE = "u1"


class Plain(Contender):
    name = "plain"
    title = "no overlay"
    devices = (PLAIN_DEVICE,)

    def _start(self) -> tuple[End, End]:
        self.lab.join(PLAIN_DEVICE)
        return self._bridged(0, PLAIN_DEVICE, 1500), self._bridged(1, PLAIN_DEVICE, 1500)


class Vxlan(Contender):
    name = "vxlan"
    title = "kernel VXLAN"

    def _start(self) -> tuple[End, End]:
        made = []
        for number in (0, 1):
            ends = ("local", self.lab.address(number), "remote", self.lab.address(1 - number))
            kind = ("type", "vxlan", "id", "1", *ends, "dstport", "4789", "dev", UNDERLAY_DEVICE)
            self.lab.ip(self.lab.host(number), "link", "add", "vxlan1", "mtu", str(VXLAN_MTU), *kind)
            made.append(self._bridged(number, "vxlan1", VXLAN_MTU))
        return made[0], made[1]


class Bare(Contender):
    """The hosts themselves."""

    name = "bare"
    title = "bare TCP"

    def _start(self) -> tuple[End, End]:
        return End(self.lab.host(0), self.lab.address(0)), End(self.lab.host(1), self.lab.address(1))


class Meshd(Contender):
    """The product, with the engine that a subclass names."""

    note = "AES-256-GCM"
    engine: ClassVar[str]
    more: ClassVar[tuple[str, ...]] = ()  # of `meshd launch`

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.routers = (Router(lab, 0), Router(lab, 1))

    def _start(self) -> tuple[End, End]:
        first, second = self.routers
        first.launch("--engine", self.engine, *self.more)
        second.join(first, "--engine", self.engine, *self.more)
        made = []
        for router in self.routers:
            space, address = self.lab.space(f"c{router.number + 1}"), f"10.77.1.{router.number + 1}"
            router.attach(space, f"{address}/24")
            made.append(End(space, address))
            if router.engine() != self.engine:
                raise BenchError(f"the router runs the {router.engine()} engine instead: {router.engine_reason()}")
        return made[0], made[1]

    def pids(self) -> list[int]:
        return [pid for router in self.routers for pid in router.pids()]


class MeshdNative(Meshd):
    name = "meshd-native"
    title = "meshd, native engine"
    engine = "native"

    @classmethod
    def missing(cls) -> str:
        missing = native_missing()
        return f"no native engine: {missing}" if missing else ""


class MeshdLoop(MeshdNative):
    name = "meshd-loop"
    title = "meshd, native engine on the loop"
    more = ("--pump", "loop")


class MeshdPython(Meshd):
    name = "meshd-python"
    title = "meshd, python engine"
    engine = "python"


KINDS: tuple[type[Contender], ...] = (Plain, Vxlan, MeshdNative, MeshdLoop, MeshdPython, *PEERS)
CONTENDERS: dict[str, type[Contender]] = {kind.name: kind for kind in KINDS}


def make(
    kinds: list[type[Contender]], leave: ExitStack, lab: Callable[[str], Lab], left_out: Callable[[str], None]
) -> list[Contender]:
    """These contenders, started, each in the lab that `lab` makes for its tag; one that does not start costs only itself."""
    made = []
    for number, kind in enumerate(kinds):
        with ExitStack() as own:
            try:
                contender = kind(own.enter_context(lab(f"{number}")))
                contender.start()
            except BenchError as error:
                left_out(f"{kind.name}: {error}")
                continue
            leave.push(own.pop_all())
            made.append(contender)
    return made
