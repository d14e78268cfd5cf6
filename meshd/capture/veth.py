"""Plugging a namespace into the bridge: a veth pair, its container end made directly inside the namespace.

    host: mv3f9c…  ── port of the bridge, no IPv6 of the host
    container: mesh0  ── stable MAC, MTU, gso_max_size, addresses, quick neighbour detection

The host end's name follows from the namespace and the bridge, so whatever is there tells by itself if it is ours: the two ends
name each other. Its alias says for which bridge it is, which MAC the bridge is to know behind it (what a bridge that is made anew
needs), and the container's MTU, which a router that is launched with another one could not see from the host. Plugging twice is
plugging once; a plug that fails leaves nothing behind. `gso_max_size` bounds the super-frames so that one fits one sealed send.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshd.capture.addresses import (
    Address,
    ensure_multicast_route,
    give_addresses,
    parse_addresses,
    take_addresses,
)
from meshd.capture.announce import announcements, send_frames
from meshd.capture.bridge import enslave, pin
from meshd.capture.links import (
    BRIDGE_FORWARDING,
    Link,
    all_links,
    as_oserror,
    check_ifname,
    delete_link,
    find_link,
    require_link,
)
from meshd.capture.netns import Inode, in_namespace, run_in_namespace
from meshd.capture.sysctl import disable_ipv6, write_sysctl
from meshd.errors import UserError
from meshd.ids import Mac, format_mac, parse_mac

__all__ = [
    "HostEnd",
    "Mtus",
    "Plug",
    "Plugged",
    "host_ends",
    "host_ifname",
    "plug",
    "rejoin",
    "remove_addresses",
    "stable_mac",
    "unplug",
]

log = logging.getLogger(__name__)

_FORWARDING_WAIT = 0.5  # the kernel reports carrier through a work queue, some milliseconds later
_FORWARDING_POLL = 0.002
_LABEL = re.compile(r"meshd (\S+) ((?:[0-9a-f]{2}:){5}[0-9a-f]{2})(?: (\d{1,5}))?")
_IPV6_MTU = 1280  # RFC 8200, 5; below it the kernel takes IPv6 off an interface
_LOCAL, _GROUP = 0x02, 0x01  # bits of a MAC's first byte (IEEE 802)
# A moved address shall be noticed in seconds (Weave's values, same reason).
_NEIGHBOUR_SYSCTLS = {"base_reachable_time_ms": 5000, "delay_first_probe_time": 2, "ucast_solicit": 1}


class Mtus(NamedTuple):
    """Of the two ends of a pair. A bridge loses without a word what does not fit the port where it is to leave, and one of others
    shrinks to its smallest port: then the host's end is larger."""

    host: int
    container: int  # as it was plugged in; 0: not told


class HostEnd(NamedTuple):
    """What can be seen of a pair from the host."""

    mac: Mac  # of the container's end
    mtus: Mtus


@dataclass(slots=True, frozen=True, kw_only=True)
class Plug:
    """What to plug in. `addresses` as the user wrote them ('ip/len'); none means layer 2 only."""

    host_ifname: str
    ifname: str
    bridge: str
    mac: Mac
    mtus: Mtus
    gso_max_size: int
    addresses: Sequence[str] = ()
    multicast_route: bool = True


@dataclass(slots=True, frozen=True, kw_only=True)
class Plugged:
    mac: Mac  # of the container's end; an interface that was there keeps its own
    created: bool
    added: tuple[str, ...]  # addresses that were not there before


def host_ifname(namespace: Inode, bridge: str) -> str:
    """Name of the host end: 12 characters that depend on the namespace, and on whose bridge it is."""
    return "mv" + hashlib.blake2s(f"{namespace}/{bridge}".encode(), digest_size=5).hexdigest()


def stable_mac(seed: bytes, container_id: str) -> Mac:
    """The same container gets the same MAC after a restart: locally administered, unicast, different with another seed."""
    key = hashlib.blake2s(seed).digest()
    digest = hashlib.blake2s(container_id.encode(), key=key, digest_size=6, person=b"meshdmac").digest()
    return Mac(bytes([digest[0] & ~_GROUP & 0xFF | _LOCAL]) + digest[1:])


def plug(ipr: IPRoute, namespace_fd: int, want: Plug, guard: Callable[[Mac], None] | None = None) -> Plugged:
    """Join the namespace to the bridge. `ipr` is the host's. Raises UserError or OSError, and then all is as before.

    `guard` is called with the container's MAC when the host end is there and before it is a port of the bridge.
    """
    addresses = parse_addresses(want.addresses)
    if want.mtus.container < _IPV6_MTU and any(address.version == 6 for address in addresses):
        raise UserError(
            f"IPv6 needs an MTU of {_IPV6_MTU}, and that of the mesh's interfaces is {want.mtus.container} here",
            hint="launch with a larger --mtu, or detach the IPv6 addresses",
        )
    check_ifname(want.ifname)
    require_link(ipr, want.bridge)
    try:
        present = _find_pair(ipr, namespace_fd, want)
        if present is None:
            _create_pair(ipr, namespace_fd, want)
        mac = want.mac if present is None else present.mac
        try:
            if guard is not None:
                guard(mac)
            _connect_host_end(ipr, want, mac)
            added = run_in_namespace(
                namespace_fd, lambda inner: _configure(inner, want, addresses, new=present is None)
            )
            _label(ipr, want, mac, want.mtus.container)  # now that the container's end has it
        except BaseException:
            if present is None:
                delete_link(ipr, want.host_ifname)  # its other end goes with it
            raise
    except NetlinkError as error:
        raise as_oserror(error) from error
    _wait_for_forwarding(ipr, want.host_ifname)
    _announce(namespace_fd, want.ifname, mac, addresses)
    return Plugged(mac=mac, created=present is None, added=tuple(map(str, added)))


def unplug(ipr: IPRoute, host_end: str) -> bool:
    """Remove the pair; False if it is gone already. Raises UserError if that interface is not a veth."""
    link = find_link(ipr, host_end)
    if link is not None and link.kind != "veth":
        raise UserError(f"{host_end} is not an interface that meshd made; it stays")
    return delete_link(ipr, host_end)


def host_ends(ipr: IPRoute, bridge: str) -> dict[str, HostEnd]:
    """The host ends that we made for this bridge, also those that were taken out of it."""
    ends = {}
    for link in _host_ends(ipr, bridge):
        _, mac, mtu = _label_of(link)
        ends[link.name] = HostEnd(mac, Mtus(link.mtu, mtu))
    return ends


def rejoin(ipr: IPRoute, bridge: str) -> None:
    """Make those ports of the bridge again that are none: it was made anew, or they were taken out. Raises OSError."""
    master = require_link(ipr, bridge).index
    for link in _host_ends(ipr, bridge):
        if link.master != master:
            _join(ipr, link.name, bridge, _label_of(link)[1])


def _host_ends(ipr: IPRoute, bridge: str) -> list[Link]:
    return [link for link in all_links(ipr) if link.kind == "veth" and _label_of(link)[0] == bridge]


def _label_of(link: Link) -> tuple[str, Mac, int]:
    """Bridge, MAC and MTU; no bridge where it is not as `_label` writes it, no MTU where a former version wrote it."""
    found = _LABEL.fullmatch(link.alias)
    return (found[1], parse_mac(found[2]), int(found[3] or 0)) if found else ("", Mac(bytes(6)), 0)


def remove_addresses(namespace_fd: int, ifname: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Take addresses away; returns those that were there."""
    addresses = parse_addresses(texts)
    return tuple(map(str, run_in_namespace(namespace_fd, lambda inner: take_addresses(inner, ifname, addresses))))


def _find_pair(ipr: IPRoute, namespace_fd: int, want: Plug) -> Link | None:
    """The container's end of our pair if it is there. Raises UserError if something else is where it should be."""
    outer = find_link(ipr, want.host_ifname)
    inner_links = run_in_namespace(namespace_fd, lambda inner: list(all_links(inner)))
    named = next((link for link in inner_links if link.name == want.ifname), None)
    if outer is None:
        if named is not None:
            raise UserError(
                f"the container has an interface {want.ifname} already, and it is not this router's",
                hint="give another name with --ifname",
            )
        return None
    ours = next((link for link in inner_links if _are_ends(outer, link)), None)
    if ours is None or not _leads_to(ipr, outer, namespace_fd):
        raise UserError(
            f"an interface {want.host_ifname} exists on the host and does not lead to this container",
            hint=f"remove it with `ip link del {want.host_ifname}`",
        )
    if ours.name != want.ifname:
        raise UserError(f"the container is attached already, as {ours.name}; detach it first to rename it")
    return ours


def _are_ends(outer: Link, inner: Link) -> bool:
    return outer.kind == inner.kind == "veth" and outer.peer_index == inner.index and inner.peer_index == outer.index


def _leads_to(ipr: IPRoute, outer: Link, namespace_fd: int) -> bool:
    """Indices repeat in every namespace; the kernel's id for the peer's namespace does not."""
    return outer.peer_namespace is not None and outer.peer_namespace == ipr.get_netnsid(fd=namespace_fd)["nsid"]


def _create_pair(ipr: IPRoute, namespace_fd: int, want: Plug) -> None:
    try:
        ipr.link(
            "add",
            ifname=want.host_ifname,
            kind="veth",
            address=format_mac(_host_end_mac(want.mac)),
            mtu=want.mtus.host,
            gso_max_size=want.gso_max_size,
            peer={
                "ifname": want.ifname,
                "address": format_mac(want.mac),
                "mtu": want.mtus.container,
                "gso_max_size": want.gso_max_size,
                "net_ns_fd": namespace_fd,
            },
        )
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
        raise UserError(f"an interface {want.ifname} or {want.host_ifname} appeared meanwhile; try again") from None


def _host_end_mac(mac: Mac) -> Mac:
    """The bridge takes this one for its own, so it must not be the container's: the same with another first byte."""
    return Mac(bytes([0xFE if mac[0] != 0xFE else 0xFA]) + mac[1:])


def _connect_host_end(ipr: IPRoute, want: Plug, mac: Mac) -> None:
    index = require_link(ipr, want.host_ifname).index
    disable_ipv6(want.host_ifname)
    _label(ipr, want, mac)
    ipr.link("set", index=index, mtu=want.mtus.host, gso_max_size=want.gso_max_size)
    _join(ipr, want.host_ifname, want.bridge, mac)
    ipr.link("set", index=index, state="up")


def _label(ipr: IPRoute, want: Plug, mac: Mac, *mtu: int) -> None:
    words = ("meshd", want.bridge, format_mac(mac), *map(str, mtu))
    ipr.link("set", index=require_link(ipr, want.host_ifname).index, ifalias=" ".join(words))


def _join(ipr: IPRoute, host_end: str, bridge: str, mac: Mac) -> None:
    enslave(ipr, host_end, bridge)
    pin(ipr, host_end, mac)


def _configure(inner: IPRoute, want: Plug, addresses: Sequence[Address], *, new: bool) -> tuple[Address, ...]:
    """In the namespace: the container's end. An interface that was there keeps what its owner changed on it."""
    index = require_link(inner, want.ifname).index
    write_sysctl(0, "ipv6", "conf", want.ifname, "accept_ra")
    if new:
        for family in ("ipv4", "ipv6"):
            for name, value in _NEIGHBOUR_SYSCTLS.items():
                write_sysctl(value, family, "neigh", want.ifname, name)
    inner.link("set", index=index, mtu=want.mtus.container, gso_max_size=want.gso_max_size, state="up")
    return _give(inner, want.ifname, addresses, want.multicast_route)


def _give(inner: IPRoute, ifname: str, addresses: Sequence[Address], multicast_route: bool) -> tuple[Address, ...]:
    given = give_addresses(inner, ifname, addresses)
    try:
        # Last, because Weave's entrypoint waits for this route; without an IPv4 address it would only mislead.
        if multicast_route and any(address.version == 4 for address in addresses):
            ensure_multicast_route(inner, ifname)
    except BaseException:
        take_addresses(inner, ifname, given)
        raise
    return given


def _wait_for_forwarding(ipr: IPRoute, host_end: str) -> None:
    """A port that has just come up forwards a moment later; an announcement sent before that would be lost."""
    deadline = time.monotonic() + _FORWARDING_WAIT
    while time.monotonic() < deadline:
        link = find_link(ipr, host_end)
        if link is None or (link.port_state == BRIDGE_FORWARDING and link.running):
            return
        time.sleep(_FORWARDING_POLL)


def _announce(namespace_fd: int, ifname: str, mac: Mac, addresses: Sequence[Address]) -> None:
    """Best effort: the interface works without it, only neighbours with an old entry take longer to notice."""
    try:
        in_namespace(namespace_fd, lambda: send_frames(ifname, announcements(mac, addresses)))
    except OSError as error:
        log.warning("cannot announce the addresses of %s: %s", ifname, error)
