"""Addresses of one interface: what the user may ask for, and giving, taking and listing them.

The functions that take an IPRoute work in *its* namespace, so they run inside `netns.run_in_namespace`. Giving is all or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshd.capture.links import require_link
from meshd.capture.sysctl import write_sysctl
from meshd.capture.underlay import address_of
from meshd.errors import UserError

__all__ = [
    "MAX_ADDRESSES",
    "Address",
    "ensure_multicast_route",
    "give_addresses",
    "interface_addresses",
    "parse_address",
    "parse_addresses",
    "take_addresses",
]

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface

MAX_ADDRESSES = 64  # of one interface: far above use, and an announcement for each is sent at once
_IFA_F_NODAD = (
    0x02  # linux/if_addr.h; DAD would keep an IPv6 address unusable for a second, and meshd has checked it already
)
_MULTICAST = "224.0.0.0/4"


def parse_address(text: str) -> Address:
    """An address with its prefix length, as an interface can have it. Raises UserError."""
    if "/" not in text:
        raise UserError(f"{text!r} has no prefix length: write for example 10.2.1.1/24")
    if "%" in text:
        raise UserError(f"{text!r} names an interface: write the address without '%' and what follows it")
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        raise UserError(f"{text!r} is no address with prefix length: write for example 10.2.1.1/24") from None
    ip, network = address.ip, address.network
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback:
        raise UserError(f"{text}: a container cannot have this address")
    if isinstance(address, ipaddress.IPv4Interface) and network.prefixlen < 31:
        if ip == network.network_address:
            raise UserError(f"{text} is the network's own address; give one of its hosts' instead")
        if ip == network.broadcast_address:
            raise UserError(f"{text} is the network's broadcast address; give one of its hosts' instead")
    return address


def parse_addresses(texts: Iterable[str]) -> tuple[Address, ...]:
    """In the order given, each once. Raises UserError."""
    addresses = tuple(dict.fromkeys(parse_address(text) for text in texts))
    if len(addresses) > MAX_ADDRESSES:
        raise UserError(f"{len(addresses)} addresses for one interface: at most {MAX_ADDRESSES} are possible")
    return addresses


def give_addresses(ipr: IPRoute, ifname: str, addresses: Sequence[Address]) -> tuple[Address, ...]:
    """Add those that are missing and return them. If one is refused, none of them stays. Raises OSError or NetlinkError."""
    index = require_link(ipr, ifname).index
    present = set(_every_address(ipr, ifname))
    given: list[Address] = []
    try:
        for address in addresses:
            if address not in present:
                _add(ipr, index, ifname, address)
                given.append(address)
    except BaseException:
        take_addresses(ipr, ifname, given)
        raise
    return tuple(given)


def take_addresses(ipr: IPRoute, ifname: str, addresses: Sequence[Address]) -> tuple[Address, ...]:
    """Remove those that are there and return them. The primary address of a subnet takes no other with it."""
    index = require_link(ipr, ifname).index
    present = _every_address(ipr, ifname)
    taken = []
    if any(address.version == 4 for address in addresses):
        # Linux removes a subnet's secondary addresses with its primary one unless told to promote them.
        write_sysctl(1, "ipv4", "conf", ifname, "promote_secondaries")
    for address in addresses:
        if address in present:
            with contextlib.suppress(_Gone):
                _delete(ipr, index, address)
                taken.append(address)
    return tuple(taken)


def interface_addresses(ipr: IPRoute, ifname: str) -> tuple[Address, ...]:
    """All but IPv6 link-local ones, which the kernel gives and takes by itself."""
    return tuple(
        address for address in _every_address(ipr, ifname) if not (address.version == 6 and address.ip.is_link_local)
    )


def _every_address(ipr: IPRoute, ifname: str) -> tuple[Address, ...]:
    """Also IPv6 link-local ones: a user may give some, too."""
    index = require_link(ipr, ifname).index
    return tuple(
        ipaddress.ip_interface(f"{address_of(message)}/{message['prefixlen']}") for message in ipr.get_addr(index=index)
    )


def ensure_multicast_route(ipr: IPRoute, ifname: str) -> bool:
    """Send the namespace's multicast into the mesh, as Weave does; False if a route for it is there already (it stays)."""
    index = require_link(ipr, ifname).index
    try:
        ipr.route("add", dst=_MULTICAST, oif=index, scope=253)  # RT_SCOPE_LINK
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
        return False
    return True


class _Gone(Exception):
    """The address went away by itself meanwhile."""


def _add(ipr: IPRoute, index: int, ifname: str, address: Address) -> None:
    if isinstance(address, ipaddress.IPv4Interface):
        broadcast = {"broadcast": str(address.network.broadcast_address)} if address.network.prefixlen < 31 else {}
        ipr.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **broadcast)
        return
    # Docker switches IPv6 off in containers whose own networks have none; here somebody asks for it.
    write_sysctl(0, "ipv6", "conf", ifname, "disable_ipv6")
    ipr.addr(
        "add",
        index=index,
        family=socket.AF_INET6,
        address=str(address.ip),
        prefixlen=address.network.prefixlen,
        flags=_IFA_F_NODAD,
    )


def _delete(ipr: IPRoute, index: int, address: Address) -> None:
    try:
        ipr.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
    except NetlinkError as error:
        if error.code in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise _Gone from error
        raise
