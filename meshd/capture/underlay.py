"""The network below the mesh, as the router needs to know it: where others may reach us, how large a packet may be, what
overlaps.

Addresses of container bridges are left out: another host that has the same `docker0` would talk to itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Any

from pyroute2 import IPRoute

from meshd.capture.links import Link, all_links

__all__ = [
    "MAX_LOCAL_ENDPOINTS",
    "address_of",
    "addresses_of_host",
    "local_endpoints",
]

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


def _faces_outside(link: Link) -> bool:
    is_tap = link.kind == "tun" and link.tun_type == _TAP
    return link.up and not link.loopback and not is_tap and not _CONTAINER_SIDE.fullmatch(link.name)
