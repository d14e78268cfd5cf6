"""What is measured: each contender joins a container on host 1 with one on host 2, all in the same lab and all up at once.

    plain          container ─ bridge ─ veth ─ bridge ─ container        no overlay: what the machine can do
    vxlan          … bridge ─ vxlan ══ host ─ veth ─ host ══ vxlan …     the kernel's overlay (flannel, Docker's), not encrypted
    meshd          … bridge ─ TAP ═ router ══ …                          the product: `meshd launch`, `meshd attach`
    wireguard-go   … bridge, routed ─ TUN ═ wireguard-go ══ …            Debian's user-space WireGuard, layer 3

Who is not being measured is idle: its containers send nothing. A contender has its own addresses 10.77.N.0/24 (WireGuard, which
routes, a second one for the far side).
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.routers import Router
from bench.topology import UNDERLAY_DEVICE, BenchError, Lab, run

__all__ = ["CONTENDERS", "PEERS", "Contender", "End", "Meshd", "cpu_seconds", "make", "rss_mib"]

READY_SECONDS = 15.0
VXLAN_MTU = 1450  # 1500 - 50
WIREGUARD_MTU = 1420  # wg-quick's
WIREGUARD_PORT = 51820
PLAIN_DEVICE = "u1"
NO_WARNING = {"WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}


@dataclass(frozen=True, slots=True)
class End:
    """A container: its namespace and address."""

    space: str
    address: str


class Contender(ABC):
    """`start` returns when the two ends reach one another; `pids` are the routers', for CPU time and memory."""

    name: ClassVar[str]
    title: ClassVar[str]
    encrypted: ClassVar[bool] = False
    devices: ClassVar[tuple[str, ...]] = (UNDERLAY_DEVICE,)  # between the hosts

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ends: tuple[End, End]

    @abstractmethod
    def _start(self) -> tuple[End, End]:
        """Set up both hosts."""

    def start(self) -> None:
        self.ends = self._start()
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers():
            if time.monotonic() > deadline:
                raise BenchError(f"{self.title}: no ping from end to end within {READY_SECONDS:.0f} s")

    def answers(self) -> bool:
        with contextlib.suppress(BenchError):
            self.lab.run(self.ends[0].space, "ping", "-n", "-q", "-c", "1", "-W", "1", self.ends[1].address)
            return True
        return False

    def pids(self) -> list[int]:
        """The routers', one for each host; none where the kernel does it."""
        return []

    def mtu(self) -> int:
        """What a container's interface has."""
        text = self.lab.run(self.ends[0].space, "ip", "-o", "link", "show", "mesh0").split()
        return int(text[text.index("mtu") + 1])

    def _bridged(self, network: int, bridge: str, mtu: int) -> tuple[End, End]:
        """A container behind a bridge on each host."""
        addresses = (f"10.77.{network}.1", f"10.77.{network}.2")
        made = [
            End(self.lab.container(number, self.name[:2], bridge, f"{address}/24", mtu), address)
            for number, address in enumerate(addresses)
        ]
        return made[0], made[1]


class Plain(Contender):
    name = "plain"
    title = "no overlay"
    devices = (PLAIN_DEVICE,)

    def _start(self) -> tuple[End, End]:
        self.lab.join(PLAIN_DEVICE)
        for number in (0, 1):
            host = self.lab.host(number)
            self.lab.bridge(host, "br-plain")
            self.lab.ip(host, "link", "set", PLAIN_DEVICE, "master", "br-plain", "up")
        return self._bridged(1, "br-plain", 1500)


class Vxlan(Contender):
    name = "vxlan"
    title = "kernel VXLAN"

    def _start(self) -> tuple[End, End]:
        for number in (0, 1):
            host = self.lab.host(number)
            self.lab.bridge(host, "br-vxlan")
            ends = ("local", self.lab.address(number), "remote", self.lab.address(1 - number))
            kind = ("type", "vxlan", "id", "1", *ends, "dstport", "4789", "dev", UNDERLAY_DEVICE)
            self.lab.ip(host, "link", "add", "vxlan1", "mtu", str(VXLAN_MTU), *kind)
            self.lab.ip(host, "link", "set", "vxlan1", "master", "br-vxlan", "up")
        return self._bridged(2, "br-vxlan", VXLAN_MTU)


class Meshd(Contender):
    name = "meshd"
    title = "meshd"
    encrypted = True

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.routers = (Router(lab, 0), Router(lab, 1))

    def _start(self) -> tuple[End, End]:
        first, second = self.routers
        first.launch()
        second.join(first)
        made = []
        for router in self.routers:
            space, address = self.lab.space(f"me{router.number + 1}"), f"10.77.3.{router.number + 1}"
            router.attach(space, f"{address}/24")
            made.append(End(space, address))
        return made[0], made[1]

    def pids(self) -> list[int]:
        return [pid for router in self.routers for pid in router.pids()]


class WireGuardGo(Contender):
    name = "wireguard-go"
    title = "wireguard-go (Debian)"
    encrypted = True

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._daemons: list[int] = []

    def _start(self) -> tuple[End, End]:
        # Its control socket lies in /run/wireguard under the interface's name, for all namespaces: so our pid is in the name.
        names = [f"mdw{os.getpid()}{number}" for number in "ab"]
        private, public = zip(*(self._key(name) for name in names), strict=True)
        made = []
        for number, name in enumerate(names):
            host = self.lab.host(number)
            process = self.lab.spawn(host, "wireguard-go", "-f", name, env=os.environ | NO_WARNING)
            self._daemons.append(process.pid)  # nsenter becomes it
            self._wait_for(name)
            peer = ("peer", public[1 - number], "endpoint", f"{self.lab.address(1 - number)}:{WIREGUARD_PORT}")
            allowed = ("allowed-ips", f"10.77.{5 - number}.0/24")
            own = ("private-key", str(private[number]), "listen-port", str(WIREGUARD_PORT))
            self.lab.run(host, "wg", "set", name, *own, *peer, *allowed)
            self.lab.ip(host, "link", "set", name, "mtu", str(WIREGUARD_MTU), "up")
            self.lab.ip(host, "route", "add", f"10.77.{5 - number}.0/24", "dev", name)
            made.append(self._routed(number))
        return made[0], made[1]

    def _key(self, name: str) -> tuple[Path, str]:
        file = self.lab.folder / f"{name}.key"
        file.touch(mode=0o600)
        file.write_text(run("wg", "genkey"))
        # `wg pubkey` reads standard input, so that no key appears on a command line.
        return file, run("sh", "-c", 'wg pubkey < "$1"', "sh", str(file)).strip()

    def _wait_for(self, name: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not Path(f"/run/wireguard/{name}.sock").exists():
            if time.monotonic() > deadline:
                raise BenchError("wireguard-go does not start")
            time.sleep(0.02)

    def _routed(self, number: int) -> End:
        host, network = self.lab.host(number), 4 + number
        self.lab.bridge(host, "br-wg")
        self.lab.ip(host, "addr", "add", f"10.77.{network}.254/24", "dev", "br-wg")
        self.lab.sysctl(host, "net.ipv4.ip_forward=1")
        address = f"10.77.{network}.1"
        space = self.lab.container(number, "wg", "br-wg", f"{address}/24", WIREGUARD_MTU)
        self.lab.ip(space, "route", "add", "default", "via", f"10.77.{network}.254")
        return End(space, address)

    def pids(self) -> list[int]:
        return list(self._daemons)


CONTENDERS: dict[str, type[Contender]] = {kind.name: kind for kind in (Plain, Vxlan, Meshd, WireGuardGo)}
PEERS = ("wireguard-go",)  # what only --peers measures: they need packages that the tests do not


def make(names: list[str], lab: Lab) -> list[Contender]:
    """The contenders of these names, started."""
    made = [CONTENDERS[name](lab) for name in names]
    for contender in made:
        contender.start()
    return made


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of all threads of these processes so far (proc(5): fields 14 and 15 of stat)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mib(pids: list[int]) -> float:
    """Resident memory of the largest of these processes."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20
