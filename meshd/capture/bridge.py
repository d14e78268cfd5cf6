"""The bridge that containers of this host share, with the router's TAP as one of its ports.

Everything that others like to change is fixed at the start: the MAC (udev's MACAddressPolicy and NetworkManager give bridges new
ones, and a bridge without an explicit one takes its lowest port's), the MTU (a bridge follows its ports until somebody sets it).
Snooping is off, so that multicast reaches the TAP without IGMP; STP is off, since the mesh is a tree by construction. The host
has no IPv6 on it.
"""

from __future__ import annotations

from pyroute2 import IPRoute

from meshd.capture.addresses import interface_addresses
from meshd.capture.links import Link, all_links, check_ifname, delete_link, find_link, require_link
from meshd.capture.sysctl import disable_ipv6
from meshd.errors import UserError
from meshd.ids import Mac, format_mac, parse_mac

__all__ = [
    "MADE_BY_MESHD",
    "block_port",
    "blocked_ports",
    "bridge_fdb",
    "bridge_ports",
    "check_bridge",
    "enslave",
    "ensure_bridge",
    "open_port",
    "pin",
    "port_behind",
    "remove_bridge",
]

MADE_BY_MESHD = "meshd"  # marks the bridge as ours, for `reset` and for a router that starts again
_OTHER_NAME = "remove it, or give another name with --bridge"
_NUD_PERMANENT, _NUD_NOARP = 0x80, 0x40  # a port's own address; one that does not age (linux/neighbour.h)
_NTF_MASTER, _NTF_STICKY = 0x04, 0x40


def check_bridge(ipr: IPRoute, name: str) -> Link | None:
    """The bridge if it is there. Raises UserError if that name belongs to something that is not ours to change.

    A bridge that others made is taken over only while it is empty: on one with ports or addresses (`docker0`, a host's `br0`)
    our MAC, MTU and lack of IPv6 would cut its owner off.
    """
    link = find_link(ipr, check_ifname(name))
    if link is None:
        return None
    if link.kind != "bridge":
        what = f" but a {link.kind} device" if link.kind else ""
        raise UserError(f"an interface {name} exists already and is not a bridge{what}", hint=_OTHER_NAME)
    if link.alias != MADE_BY_MESHD and (bridge_ports(ipr, name) or interface_addresses(ipr, name)):
        raise UserError(f"a bridge {name} exists already and is in use by something else", hint=_OTHER_NAME)
    return link


def ensure_bridge(ipr: IPRoute, name: str, mac: Mac, mtu: int) -> bool:
    """Make the bridge, or put ours right again; True if it was made. Raises UserError if something else has that name."""
    link = check_bridge(ipr, name)
    created = link is None
    if created:
        # One byte short, so that the MTU set below is a change: only an explicit change stops the bridge from following its ports.
        ipr.link("add", ifname=name, kind="bridge", address=format_mac(mac), mtu=mtu - 1, br_stp_state=0)
    try:
        _configure(ipr, require_link(ipr, name), mac, mtu)
    except BaseException:
        if created:
            delete_link(ipr, name)
        raise
    return created


def _configure(ipr: IPRoute, link: Link, mac: Mac, mtu: int) -> None:
    disable_ipv6(link.name)
    ipr.link("set", index=link.index, ifalias=MADE_BY_MESHD, kind="bridge", br_mcast_snooping=0, br_stp_state=0)
    if link.mac != mac:
        ipr.link("set", index=link.index, address=format_mac(mac))
    if link.mtu != mtu:
        ipr.link("set", index=link.index, mtu=mtu)
    ipr.link("set", index=link.index, state="up")


def enslave(ipr: IPRoute, ifname: str, bridge: str) -> None:
    """Make `ifname` a port of the bridge, if it is not yet. Raises OSError."""
    port, master = require_link(ipr, ifname), require_link(ipr, bridge)
    if port.master != master.index:
        ipr.link("set", index=port.index, master=master.index)


def pin(ipr: IPRoute, ifname: str, mac: Mac) -> None:
    """This MAC is behind this port, and stays there until the port goes, whatever others send. Raises OSError.

    Else a neighbour that forges it, or a loop, would take what is meant for it until its container speaks again.
    """
    index = require_link(ipr, ifname).index
    ipr.fdb("replace", ifindex=index, lladdr=format_mac(mac), state=_NUD_NOARP, flags=_NTF_MASTER | _NTF_STICKY)


def block_port(ipr: IPRoute, ifname: str) -> None:
    """Nothing goes in or out: the interface is down, and whoever is behind it sees that. Raises OSError."""
    ipr.link("set", index=require_link(ipr, ifname).index, state="down")


def open_port(ipr: IPRoute, ifname: str) -> None:
    ipr.link("set", index=require_link(ipr, ifname).index, state="up")


def blocked_ports(ipr: IPRoute, bridge: str) -> list[str]:
    """Ports that are not up."""
    return [port.name for port in bridge_ports(ipr, bridge) if not port.up]


def port_behind(ipr: IPRoute, bridge: str, mac: Mac) -> str:
    """The port behind which the bridge has learned this MAC; "" if it has not."""
    return bridge_fdb(ipr, bridge).get(mac, "")


def remove_bridge(ipr: IPRoute, name: str) -> bool:
    """Remove the bridge (its ports stay, without a bridge); False if there is none. Raises UserError if it is not ours."""
    link = find_link(ipr, name)
    if link is not None and (link.kind != "bridge" or link.alias != MADE_BY_MESHD):
        raise UserError(f"{name} is not a bridge that meshd made; it stays")
    return delete_link(ipr, name)


def bridge_ports(ipr: IPRoute, bridge: str) -> list[Link]:
    master = require_link(ipr, bridge).index
    return [link for link in all_links(ipr) if link.master == master]


def bridge_fdb(ipr: IPRoute, bridge: str) -> dict[Mac, str]:
    """The MACs that the bridge has learned, each with the name of the port behind which it is."""
    names = {port.index: port.name for port in bridge_ports(ipr, bridge)}
    learned: dict[Mac, str] = {}
    for entry in ipr.fdb("dump"):
        mac = entry.get_attr("NDA_LLADDR")
        if mac and entry["ifindex"] in names and not entry["state"] & _NUD_PERMANENT:
            learned[parse_mac(mac)] = names[entry["ifindex"]]
    return learned
