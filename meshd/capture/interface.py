"""The interface that pcap mode is to use, looked at before it is opened: what it is, and why it may not do. Looks only."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from pyroute2 import IPRoute

from meshd.capture.bridge import MADE_BY_MESHD
from meshd.capture.links import Link, all_links, check_ifname, find_link
from meshd.capture.underlay import address_of
from meshd.errors import UserError
from meshd.ids import Mac

__all__ = ["MAX_FILTERED_ADDRESSES", "Interface", "look_at_interface"]

MAX_FILTERED_ADDRESSES = 32  # of the interface's own; more would make the kernel's filter program long
_SIOCGIWNAME = 0x8B01  # linux/wireless.h: only wireless interfaces have an answer
_TAP = 2  # IFLA_TUN_TYPE
_MAIN_TABLE = 254


@dataclass(slots=True, frozen=True, kw_only=True)
class Interface:
    name: str
    mac: Mac
    mtu: int
    is_bridge: bool
    addresses: tuple[str, ...]  # this host's, on it


def look_at_interface(ipr: IPRoute, name: str) -> Interface:
    """Raises UserError where capturing on it cannot work, or would carry the mesh inside itself."""
    link = find_link(ipr, check_ifname(name))
    if link is None:
        raise UserError(f"there is no interface {name}", hint="`ip link` lists what there is")
    if link.loopback:
        raise UserError(f"{name} is the loopback interface: nobody else is behind it")
    if _is_own_tap(ipr, link):
        raise UserError(f"{name} is meshd's own TAP", hint="without --capture meshd uses it by itself")
    if _is_wireless(name):
        raise UserError(f"{name} is wireless: an access point takes frames of its own stations only")
    if not link.up:
        raise UserError(f"{name} is down", hint=f"ip link set {name} up")
    if _is_way_out(ipr, link):
        raise UserError(
            f"{name} is this host's default route: the mesh would carry its own datagrams",
            hint="capture on a second interface, a veth or a bridge",
        )
    addresses = [address_of(message) for message in ipr.get_addr(index=link.index)]
    return Interface(
        name=name,
        mac=link.mac,
        mtu=link.mtu,
        is_bridge=link.kind == "bridge",
        addresses=tuple(addresses[:MAX_FILTERED_ADDRESSES]),
    )


def _is_own_tap(ipr: IPRoute, link: Link) -> bool:
    """A TAP of others, a virtual machine's say, is as good as any interface."""
    if link.kind != "tun" or link.tun_type != _TAP or not link.master:
        return False
    return any(other.index == link.master and other.alias == MADE_BY_MESHD for other in all_links(ipr))


def _is_wireless(name: str) -> bool:
    request = struct.pack("16s16x", os.fsencode(name))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCGIWNAME, request)
        except OSError:
            return False
    return True


def _is_way_out(ipr: IPRoute, link: Link) -> bool:
    routes = ipr.get_routes(table=_MAIN_TABLE)
    return any(route["dst_len"] == 0 and route.get_attr("RTA_OIF") == link.index for route in routes)
