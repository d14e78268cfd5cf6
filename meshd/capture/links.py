"""A typed view of the kernel's links, so that the rest of the package does not walk pyroute2's untyped attributes."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshd.errors import UserError
from meshd.ids import Mac, parse_mac

__all__ = [
    "BRIDGE_FORWARDING",
    "Link",
    "all_links",
    "as_oserror",
    "check_ifname",
    "delete_link",
    "find_link",
    "require_link",
]

_IFNAMSIZ = 16  # linux/if.h, with the terminating zero
_NAME = re.compile(r"[A-Za-z0-9_.=+@-]+")  # narrower than the kernel's rule: no quoting, ever
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IF_OPER_UP = "UP"
BRIDGE_FORWARDING = 3  # BR_STATE_FORWARDING (linux/if_bridge.h)


@dataclass(slots=True, frozen=True, kw_only=True)
class Link:
    index: int
    name: str
    kind: str  # "bridge", "veth", "tun", …; "" for a physical device
    mac: Mac
    mtu: int
    up: bool  # administratively
    running: bool  # operstate UP: carrier and queue are ready
    loopback: bool
    master: int  # index of the bridge it is a port of, 0 if none
    peer_index: int  # veth: index of the other end, in *its* namespace; 0 if none
    peer_namespace: int | None  # veth: the netnsid of that namespace; None: our own
    alias: str
    gso_max_size: int
    port_state: int | None  # bridge port state
    tun_type: int | None  # 1 TUN, 2 TAP


def as_oserror(error: NetlinkError) -> OSError:
    """The same failure as the exception of the standard library (FileExistsError, PermissionError, …)."""
    code = int(error.code)
    return OSError(code, os.strerror(code))


def check_ifname(name: str) -> str:
    """Raises UserError unless the kernel and every tool around it take this interface name."""
    if not _NAME.fullmatch(name) or len(name) >= _IFNAMSIZ or name in (".", ".."):
        raise UserError(f"{name!r} is no interface name: give 1 to {_IFNAMSIZ - 1} letters, digits, '-', '_' or '.'")
    return name


def find_link(ipr: IPRoute, name: str) -> Link | None:
    try:
        messages = list(ipr.link("get", ifname=name))
    except NetlinkError as error:
        if error.code in (
            errno.ENODEV,
            errno.EINVAL,
        ):  # EINVAL: kernels that refuse a request by a name that is not there
            return None
        raise
    return _view(messages[0]) if messages else None


def require_link(ipr: IPRoute, name: str) -> Link:
    link = find_link(ipr, name)
    if link is None:
        raise OSError(errno.ENODEV, f"no interface {name}")
    return link


def all_links(ipr: IPRoute) -> Iterator[Link]:
    for message in ipr.get_links():
        yield _view(message)


def delete_link(ipr: IPRoute, name: str) -> bool:
    """Delete an interface; False if it is gone already."""
    link = find_link(ipr, name)
    if link is None:
        return False
    try:
        ipr.link("del", index=link.index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
        return False
    return True


def _view(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else "") or ""
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge" else None
    flags = int(message["flags"])
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        kind=str(kind),
        mac=_mac(message.get_attr("IFLA_ADDRESS")),
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        up=bool(flags & _IFF_UP),
        running=message.get_attr("IFLA_OPERSTATE") == _IF_OPER_UP,
        loopback=bool(flags & _IFF_LOOPBACK),
        master=int(message.get_attr("IFLA_MASTER") or 0),
        peer_index=int(message.get_attr("IFLA_LINK") or 0),
        peer_namespace=message.get_attr("IFLA_LINK_NETNSID"),
        alias=str(message.get_attr("IFLA_IFALIAS") or ""),
        gso_max_size=int(message.get_attr("IFLA_GSO_MAX_SIZE") or 0),
        port_state=_attribute(port, "IFLA_BRPORT_STATE"),
        tun_type=_attribute(data, "IFLA_TUN_TYPE") if kind == "tun" else None,
    )


def _attribute(nested: Any, name: str) -> int | None:
    value = nested.get_attr(name) if nested is not None and hasattr(nested, "get_attr") else None
    return None if value is None else int(value)


def _mac(text: str | None) -> Mac:
    try:
        return parse_mac(text or "")
    except ValueError:  # tunnels have no, or another kind of, address
        return Mac(bytes(6))
