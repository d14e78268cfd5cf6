"""The machine's part of a router: sockets, and what frames are captured on. Opened in an order in which a refusal leaves nothing.

First what can be taken by others and leaves no trace (the UDP ports), then what is made (bridge, TAP). A bridge that was made here
is removed again if the start fails later; at an ordinary stop it stays, as do the containers' interfaces and the firewall rule:
their traffic on this host goes on without the router.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass

from pyroute2 import IPRoute

from meshd.capture.netlink import Netlink
from meshd.capture.underlay import address_of, addresses_of_host, local_endpoints
from meshd.config import LaunchOptions, interface_mtu
from meshd.daemon.capturing import Capturing, capturing_for
from meshd.daemon.preflight import tap_name
from meshd.errors import UserError
from meshd.ids import Mac
from meshd.net.steer import open_side_ports, steer
from meshd.net.udp import UdpPort, open_udp_port

__all__ = ["Devices", "Underlay", "bridge_mac", "open_devices", "open_ports", "survey"]

_log = logging.getLogger(__name__)

_DEFAULT_UNDERLAY_MTU = 1500


@dataclass(slots=True, frozen=True, kw_only=True)
class Underlay:
    """What this host's network looks like, before anything of ours is on it."""

    endpoints: tuple[str, ...]  # numeric addresses that others may reach, IPv4 first
    own_addresses: frozenset[str]
    mtu: int  # the smallest of the devices that face outside
    interface_mtu: int


@dataclass(slots=True, kw_only=True)
class Devices:
    """Everything open. `close` ends what ends with the router; `undo` also removes what this start made."""

    ports: list[UdpPort]
    side_ports: list[UdpPort]  # of the same ports, for handshakes
    capturing: Capturing

    def port_offloads(self) -> list[str]:
        """What the UDP sockets leave to the kernel: "udp gso", "udp gro"."""
        kinds = {
            "udp gso": any(port.segmenting for port in self.ports),
            "udp gro": any(port.grouping for port in self.ports),
        }
        return [kind for kind, used in kinds.items() if used]

    def steer(self, members: tuple[str, ...]) -> None:
        """These are the addresses of members: their handshakes do not wait behind those of strangers."""
        for port in self.ports if self.side_ports else ():
            with contextlib.suppress(OSError):  # the program before stays
                steer(port, members)

    def close(self) -> None:
        for port in self.ports + self.side_ports:
            port.close()
        self.ports.clear()
        self.side_ports.clear()
        self.capturing.close()

    def undo(self, ipr: IPRoute) -> None:
        self.close()
        self.capturing.undo(ipr)


def survey(ipr: IPRoute, options: LaunchOptions) -> Underlay:
    """Blocks. Raises UserError where the underlay leaves no room for frames."""
    exclude = {options.capture_interface or options.bridge, tap_name(options.bridge)}
    endpoints = [options.host] if options.host else local_endpoints(ipr, exclude)
    mtu = _underlay_mtu(ipr, endpoints)
    chosen = options.mtu or _interface_mtu(mtu, 6 if endpoints and all(":" in address for address in endpoints) else 4)
    return Underlay(
        endpoints=tuple(endpoints),
        own_addresses=frozenset(addresses_of_host(ipr)),
        mtu=mtu,
        interface_mtu=chosen,
    )


def _underlay_mtu(ipr: IPRoute, addresses: list[str]) -> int:
    """The smallest of the devices that bear these addresses: what fits there fits on every way out of this host."""
    bearers = {int(entry["index"]) for entry in ipr.get_addr() if address_of(entry) in addresses}
    mtus = [int(link.get_attr("IFLA_MTU")) for link in ipr.get_links() if link["index"] in bearers]
    return min(mtus, default=_DEFAULT_UNDERLAY_MTU)


def _interface_mtu(mtu: int, family: int) -> int:
    try:
        return interface_mtu(mtu, family)
    except ValueError as error:
        raise UserError(str(error)) from error


def bridge_mac(mesh_id: bytes, host_id: bytes) -> Mac:
    """The bridge's own MAC: stable, local, different on every host."""
    return Mac(bytes((0x02, 0x6D)) + bytes(a ^ b for a, b in zip(host_id[:4], mesh_id[:4], strict=True)))


def open_ports(options: LaunchOptions) -> list[UdpPort]:
    """One UDP port for each address family that the host has. Raises UserError when the port is taken."""
    ports: list[UdpPort] = []
    addresses = [options.host] if options.host else ["0.0.0.0", "::"]
    try:
        for address in addresses:
            try:
                ports.append(open_udp_port(6 if ":" in address else 4, address, options.port))
            except OSError as error:
                if address == "::":  # a host without IPv6
                    _log.info("no IPv6 underlay: %s", os.strerror(error.errno or 0).lower())
                    continue
                raise UserError(
                    f"cannot open UDP port {options.port}: {os.strerror(error.errno or 0).lower()}"
                ) from error
    except BaseException:
        for port in ports:
            port.close()
        raise
    return ports


async def open_devices(netlink: Netlink, options: LaunchOptions, mac: Mac, mtu: int) -> Devices:
    """Raises UserError or OSError with nothing left behind."""
    ports = open_ports(options)
    side_ports = [side for port in ports for side in open_side_ports(port)]
    devices = Devices(ports=ports, side_ports=side_ports, capturing=capturing_for(options, mac, mtu))
    try:
        await netlink.run(devices.capturing.make)
    except BaseException:
        await netlink.run(devices.undo)
        raise
    return devices
