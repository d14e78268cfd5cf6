"""Two hosts and their containers out of network namespaces, for measuring an engine against kernel VXLAN side by side.

    c1 ─ veth ─ bridge `mesh` ─ TAP ═ router ═┐                 ┌═ router ═ TAP ─ bridge ─ veth ─ c2      10.77.1.0/24, MTU 1372
                                              h1 ─ veth 1500 ─ h2
    v1 ─ veth ─ bridge `vx` ─── vxlan ────────┘                 └─ vxlan ─── bridge ─ veth ─ v2           10.77.2.0/24, MTU 1450

Every name carries our pid. Leaving the context stops what was started and deletes the namespaces, and with them all devices.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["UNDERLAY", "Topology", "topology"]

UNDERLAY = ("10.78.0.1", "10.78.0.2")
MESH_MTU = 1372
VXLAN_MTU = 1450
GSO_MAX_SIZE = 59000
TAP = "mt0"
READY_SECONDS = 5.0
# `ethtool -K DEVICE tso off gso off gro off`, where there is no ethtool (linux/ethtool.h: STSO, SGSO, SGRO; SIOCETHTOOL)
OFFLOADS_OFF = """
import array, fcntl, socket, struct, sys
with socket.socket() as anything:
    for command in (0x1F, 0x24, 0x2C):
        value = array.array("I", (command, 0))
        fcntl.ioctl(anything, 0x8946, struct.pack("16sP16x", sys.argv[1].encode(), value.buffer_info()[0]))
"""
ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Topology:
    """Names of the namespaces and the two router processes."""

    def __init__(self, offloads: bool, vxlan: bool) -> None:
        self.prefix = f"mdeng{os.getpid()}-"
        self.offloads = offloads
        self.vxlan = vxlan
        self.routers: list[subprocess.Popen[bytes]] = []

    def space(self, role: str, host: int) -> str:
        return f"{self.prefix}{role}{host + 1}"

    def ip(self, space: str, *arguments: str) -> None:
        run("ip", "-n", space, *arguments)

    def build(self) -> None:
        for host in (0, 1):
            for role in "hcv":
                run("ip", "netns", "add", self.space(role, host))
                self.ip(self.space(role, host), "link", "set", "lo", "up")
        self.ip(self.space("h", 0), "link", "add", "u0", "type", "veth", "peer", "u0", "netns", self.space("h", 1))
        for host in (0, 1):
            space = self.space("h", host)
            self.ip(space, "addr", "add", f"{UNDERLAY[host]}/24", "dev", "u0")
            self.ip(space, "link", "set", "u0", "up")
            if not self.offloads:
                run("ip", "netns", "exec", space, sys.executable, "-c", OFFLOADS_OFF, "u0")
            self.bridge(host, "mesh")
            self.container(host, "c", "mesh", f"10.77.1.{host + 1}/24", MESH_MTU)
            if self.vxlan:
                self.build_vxlan(host)

    def build_vxlan(self, host: int) -> None:
        space, local, remote = self.space("h", host), UNDERLAY[host], UNDERLAY[1 - host]
        self.bridge(host, "vx")
        self.container(host, "v", "vx", f"10.77.2.{host + 1}/24", VXLAN_MTU)
        vxlan = ("vxlan", "id", "1", "local", local, "remote", remote, "dstport", "4789", "dev", "u0")
        self.ip(space, "link", "add", "x0", "mtu", str(VXLAN_MTU), "type", *vxlan)
        self.ip(space, "link", "set", "x0", "master", "vx", "up")

    def bridge(self, host: int, name: str) -> None:
        space = self.space("h", host)
        self.ip(space, "link", "add", name, "type", "bridge", "forward_delay", "0")
        run("ip", "netns", "exec", space, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        self.ip(space, "link", "set", name, "up")

    def container(self, host: int, role: str, bridge: str, address: str, mtu: int) -> None:
        space, inside, end = self.space("h", host), self.space(role, host), f"p{role}"
        peer = ("peer", "name", "mesh0", "mtu", str(mtu), "netns", inside)
        self.ip(space, "link", "add", end, "mtu", str(mtu), "type", "veth", *peer)
        if role == "c":
            self.ip(space, "link", "set", end, "gso_max_size", str(GSO_MAX_SIZE))
            self.ip(inside, "link", "set", "mesh0", "gso_max_size", str(GSO_MAX_SIZE))
        self.ip(space, "link", "set", end, "master", bridge, "up")
        self.ip(inside, "addr", "add", address, "dev", "mesh0")
        self.ip(inside, "link", "set", "mesh0", "up")

    def start_routers(self, *arguments: str) -> None:
        for host in (0, 1):
            command = [sys.executable, "-m", "bench.engine_router", str(host), TAP, UNDERLAY[1 - host], *arguments]
            enter = ["nsenter", f"--net=/run/netns/{self.space('h', host)}"]
            self.routers.append(subprocess.Popen([*enter, *command], cwd=ROOT))
        for host in (0, 1):
            self.join_tap(self.space("h", host))

    def join_tap(self, space: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while subprocess.run(["ip", "-n", space, "link", "show", TAP], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the router in {space} made no TAP")
            time.sleep(0.05)
        self.ip(space, "link", "set", TAP, "mtu", str(MESH_MTU), "txqueuelen", "1000")
        self.ip(space, "link", "set", TAP, "master", "mesh", "up")

    def stop(self) -> None:
        for router in self.routers:
            router.terminate()
        for router in self.routers:
            router.wait()
        for host in (0, 1):
            for role in "hcv":
                subprocess.run(["ip", "netns", "del", self.space(role, host)], capture_output=True, check=False)

    def cpu_seconds(self) -> float:
        """User and system time that the routers have used so far."""
        total = 0.0
        for router in self.routers:
            fields = Path(f"/proc/{router.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total


@contextlib.contextmanager
def topology(*router_arguments: str, offloads: bool = True, vxlan: bool = True) -> Iterator[Topology]:
    """Everything set up and both routers running."""
    made = Topology(offloads, vxlan)
    try:
        made.build()
        made.start_routers(*router_arguments)
        yield made
    finally:
        made.stop()
