"""The network below the mesh, as the router needs to know it: where others may reach us, how large a packet may be, what
overlaps.

Addresses of container bridges are left out: another host that has the same `docker0` would talk to itself.
"""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Collection
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshd.capture.links import Link, all_links, as_oserror

__all__ = [
    "MAX_LOCAL_ENDPOINTS",
    "address_of",
    "addresses_of_host",
    "host_routes_overlap",
    "local_endpoints",
    "underlay_mtu",
]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_LOCAL_ENDPOINTS = 16
_CONTAINER_SIDE = re.compile(
    r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}|veth[0-9a-f]{7,}|virbr\d+|(lxc|lxd)br\d+|cni\d+|podman\d+|cali.+"
)
_TAP = 2  # IFLA_TUN_TYPE
_SCOPE_GLOBAL = 0
# linux/if_addr.h: an address others should not learn, or that is not usable (yet)
_TEMPORARY, _DADFAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_UNFIT_IPV6 = _TEMPORARY | _DADFAILED | _DEPRECATED | _TENTATIVE  # IPv4: bit 0x01 means "secondary", which is fine
_MAIN_TABLE = 254
_UNICAST = 1  # RTN_UNICAST


def local_endpoints(ipr: IPRoute, exclude: Collection[str] = ()) -> list[str]:
    """Numeric addresses at which other hosts may reach this one, IPv4 first. `exclude`: names of our own interfaces."""
    links = {link.index: link for link in all_links(ipr) if _faces_outside(link) and link.name not in exclude}
    found: list[IpAddress] = []
    for message in ipr.get_addr():
        if message["index"] in links and message["scope"] == _SCOPE_GLOBAL:
            ip = ipaddress.ip_address(address_of(message))
            flags = int(message.get_attr("IFA_FLAGS") or message["flags"])
            if not (ip.is_link_local or ip.is_loopback or (ip.version == 6 and flags & _UNFIT_IPV6)):
                found.append(ip)
    ordered = sorted(dict.fromkeys(found), key=lambda ip: ip.version)  # stable: the kernel's order within a family
    return [str(ip) for ip in ordered[:MAX_LOCAL_ENDPOINTS]]


def address_of(message: Any) -> str:
    """This host's own address in a message about one: IFA_ADDRESS is the other end's on a point-to-point device."""
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))


def addresses_of_host(ipr: IPRoute) -> set[str]:
    """Every address of this host, loopback and link-local ones too: what means ourselves when it is among the peers."""
    return {address_of(message) for message in ipr.get_addr()}


def underlay_mtu(ipr: IPRoute, destination: str) -> int:
    """Largest IP packet towards `destination` as far as this host knows: its device's MTU, or less if the route says so.

    Raises OSError when there is no route, ValueError when `destination` is not numeric.
    """
    try:
        route = next(iter(ipr.route("get", dst=str(ipaddress.ip_address(destination)))))
        link = next(iter(ipr.get_links(route.get_attr("RTA_OIF"))))
    except NetlinkError as error:
        raise as_oserror(error) from error
    except StopIteration:
        raise OSError(errno.ENETUNREACH, f"no route to {destination}") from None
    metrics = route.get_attr("RTA_METRICS")
    of_route = metrics.get_attr("RTAX_MTU") if metrics else None
    of_device = int(link.get_attr("IFLA_MTU"))
    return min(of_device, int(of_route)) if of_route else of_device


def host_routes_overlap(ipr: IPRoute, network: Network, exclude: Collection[str] = ()) -> list[str]:
    """The host's routes (the default route excepted) that share addresses with `network`, as "10.0.0.0/8 dev eth0"."""
    names = {link.index: link.name for link in all_links(ipr)}
    overlapping = []
    for message in ipr.get_routes(table=_MAIN_TABLE):
        destination = message.get_attr("RTA_DST")
        name = names.get(message.get_attr("RTA_OIF") or 0, "")
        if destination is None or message["type"] != _UNICAST or name in exclude:
            continue
        route = ipaddress.ip_network(f"{destination}/{message['dst_len']}")
        if route.version == network.version and route.overlaps(network):
            overlapping.append(f"{route} dev {name}" if name else str(route))
    return overlapping


def _faces_outside(link: Link) -> bool:
    is_tap = link.kind == "tun" and link.tun_type == _TAP
    return link.up and not link.loopback and not is_tap and not _CONTAINER_SIDE.fullmatch(link.name)
