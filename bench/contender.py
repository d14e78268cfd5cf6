"""What every contender is: something that joins a container on host 1 with one on host 2.

A contender has a lab of its own, so that nobody's devices, addresses and firewall meet another's. All labs are up at once and all
contenders are idle except the one that is being measured. Bridged ones have both containers in 10.77.1.0/24; routed ones (layer 3
has no bridge to offer) have host 1's in 10.77.1.0/24 and host 2's in 10.77.2.0/24.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import ClassVar

from bench.topology import UNDERLAY_DEVICE, BenchError, Lab, wait_until

__all__ = [
    "CONTAINER_DEVICE",
    "Contender",
    "End",
    "cpu_seconds",
    "rss_mib",
    "subnet",
    "system_seconds",
]

CONTAINER_DEVICE = "mesh0"
BRIDGE = "br0"


@dataclass(frozen=True, slots=True)
class End:
    """A container: its namespace and address."""

    space: str
    address: str


class Contender(ABC):
    """`start` returns when the two ends reach one another; `pids` are the routers', for CPU time and memory."""

    name: ClassVar[str]
    title: ClassVar[str]
    note: ClassVar[str] = "not encrypted"
    peer: ClassVar[bool] = False  # another project's user-space overlay
    commands: ClassVar[tuple[str, ...]] = ()  # that must be installed
    devices: ClassVar[tuple[str, ...]] = (UNDERLAY_DEVICE,)  # between the hosts

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ends: tuple[End, End]
        self._daemons: list[int] = []

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here; "" if it can."""
        absent = [command for command in cls.commands if which(command) is None]
        return f"no command {absent[0]} here (make bench-peers installs it)" if absent else ""

    @abstractmethod
    def _start(self) -> tuple[End, End]:
        """Set up both hosts."""

    def start(self) -> None:
        self.ends = self._start()
        wait_until(self.answers, f"{self.title}: no ping from end to end")

    def answers(self) -> bool:
        with contextlib.suppress(BenchError):
            self.lab.run(self.ends[0].space, "ping", "-n", "-q", "-c", "1", "-W", "1", self.ends[1].address)
            return True
        return False

    def pids(self) -> list[int]:
        """The routers', one for each host; none where the kernel does it."""
        return list(self._daemons)

    def mtu(self) -> int:
        """What a container's interface has."""
        text = self.lab.run(self.ends[0].space, "ip", "-o", "link", "show", CONTAINER_DEVICE).split()
        return int(text[text.index("mtu") + 1])

    # what most contenders are made of

    def _daemon(self, number: int, *command: str, env: dict[str, str] | None = None) -> None:
        """Start a router's process on a host."""
        self._daemons.append(self.lab.spawn(self.lab.host(number), *command, env=env).pid)  # nsenter becomes it

    def _appears(self, number: int, device: str) -> None:
        """Wait for a device that a daemon makes."""
        wait_until(lambda: self._has(number, device), f"{self.title}: no device {device}")

    def _has(self, number: int, device: str) -> bool:
        with contextlib.suppress(BenchError):
            self.lab.ip(self.lab.host(number), "link", "show", device)
            return True
        return False

    def _bridged(self, number: int, device: str, mtu: int) -> End:
        """A container behind a bridge, and the overlay's device a port of it."""
        host = self.lab.host(number)
        self.lab.bridge(host, BRIDGE)
        self.lab.ip(host, "link", "set", device, "mtu", str(mtu), "master", BRIDGE, "up")
        address = f"10.77.1.{number + 1}"
        return End(self.lab.container(number, "c", BRIDGE, f"{address}/24", mtu), address)

    def _routed(self, number: int, mtu: int) -> End:
        """A container behind a bridge, which is its gateway; routes to the far side are the caller's."""
        host, network = self.lab.host(number), f"10.77.{number + 1}"
        self.lab.bridge(host, BRIDGE)
        self.lab.ip(host, "addr", "add", f"{network}.254/24", "dev", BRIDGE)
        self.lab.sysctl(host, "net.ipv4.ip_forward=1")
        space = self.lab.container(number, "c", BRIDGE, f"{network}.1/24", mtu)
        self.lab.ip(space, "route", "add", "default", "via", f"{network}.254")
        return End(space, f"{network}.1")


def subnet(number: int) -> str:
    """Where a routed contender's container on this host lives."""
    return f"10.77.{number + 1}.0/24"


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of all threads of these processes so far (proc(5): fields 14 and 15 of stat). Raises BenchError
    if one has ended, as the others here do."""
    return sum(sum(_times(pid)) for pid in pids) / os.sysconf("SC_CLK_TCK")


def system_seconds(pids: list[int]) -> float:
    """The system time alone: what the kernel did at these processes' expense."""
    return sum(_times(pid)[1] for pid in pids) / os.sysconf("SC_CLK_TCK")


def _times(pid: int) -> tuple[int, int]:
    fields = _proc(pid)
    return int(fields[11]), int(fields[12])


def rss_mib(pids: list[int]) -> float:
    """Resident memory of the largest of these processes (field 24)."""
    return max(int(_proc(pid)[21]) for pid in pids) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _proc(pid: int) -> list[str]:
    """Fields 3 and on of a process's stat. One that nobody has waited for yet has ended, too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        fields = ["Z"]
    if fields[0] in "ZX":
        raise BenchError(f"the router with process id {pid} has ended")
    return fields
