"""What `launch` checks before it changes anything: names, options, rights, a free bridge and TAP. Looks only."""

from __future__ import annotations

import ipaddress
import re
import socket

from meshd.capture.netlink import Netlink
from meshd.capture.preflight import check_machine, check_pcap_machine, check_rights
from meshd.config import DEFAULT_BRIDGE, MAX_INTERFACE_MTU, MIN_INTERFACE_MTU, LaunchOptions, Paths
from meshd.daemon.advertised import parse_advertised
from meshd.daemon.supervise import lock_is_free
from meshd.errors import UserError
from meshd.forward.engine.choice import choose_engine
from meshd.ids import parse_mac

__all__ = ["MAX_BRIDGE_NAME", "check_launch", "host_nickname", "tap_name"]

MAX_BRIDGE_NAME = 11  # the TAP is called BRIDGE-tap, and IFNAMSIZ leaves 15 characters
MAX_NICKNAME = 64  # bytes in UTF-8, gossip.values
_NICKNAME = re.compile(r"[^\s()]+")


def tap_name(bridge: str) -> str:
    return f"{bridge}-tap"


def _is_nickname(text: str) -> bool:
    """As every host of the mesh checks it: what they do not take would leave this host without a record."""
    return _NICKNAME.fullmatch(text) is not None and text.isprintable() and len(text.encode()) <= MAX_NICKNAME


def host_nickname() -> str:
    """The nickname of who gave none. Raises UserError: the kernel's first host name, `(none)`, cannot be one."""
    name = socket.gethostname().split(".")[0]
    if not _is_nickname(name):
        raise UserError(f"the host name {name!r} cannot be a nickname", hint="give one: meshd launch --nickname NAME")
    return name


def check_launch(options: LaunchOptions, paths: Paths) -> tuple[str, ...]:
    """Warnings, one line each. Raises UserError for what cannot work."""
    if options.capture_interface is None:
        check_rights()
    else:
        check_rights(tun=None)
    _check_options(options)
    if not lock_is_free(paths.lock):
        return ()  # the caller takes the lock next, and says who holds it
    netlink = Netlink()
    try:
        if (interface := options.capture_interface) is not None:
            return tuple(netlink.call_sync(lambda ipr: check_pcap_machine(ipr, interface)))
        return tuple(netlink.call_sync(lambda ipr: check_machine(ipr, options.bridge, tap_name(options.bridge))))
    finally:
        netlink.close()


def _check_options(options: LaunchOptions) -> None:
    if len(options.bridge) > MAX_BRIDGE_NAME:
        raise UserError(f"the bridge name {options.bridge!r} is longer than {MAX_BRIDGE_NAME} characters")
    _check_capture(options)
    if not 0 < options.port < 65536:
        raise UserError(f"port {options.port} is not between 1 and 65535")
    if options.mtu is not None and not MIN_INTERFACE_MTU <= options.mtu <= MAX_INTERFACE_MTU:
        raise UserError(f"an MTU of {options.mtu} is not between {MIN_INTERFACE_MTU} and {MAX_INTERFACE_MTU}")
    parse_advertised(options.advertise, options.port)
    if options.host is not None:
        try:
            ipaddress.ip_address(options.host)
        except ValueError:
            raise UserError(f"--host {options.host!r} is not an IP address") from None
    if not options.mesh.isprintable():
        raise UserError(f"--mesh {options.mesh!r} has characters that cannot be printed")
    if options.name is not None:
        try:
            parse_mac(options.name)
        except ValueError:
            raise UserError(f"--name {options.name!r} is not of the form 7a:0f:f6:ec:1c:93") from None
    if options.nickname is not None and not _is_nickname(options.nickname):
        raise UserError("a nickname has 1 to 64 bytes, all printable, no white space and no parentheses")
    choose_engine(options.engine, options.pump, descriptors=options.capture_interface is None)
    if options.resume and options.peers:
        raise UserError("--resume uses the stored peers: give no others with it")
    if options.rekey_interval_s is not None and not 1 <= options.rekey_interval_s <= 120:
        raise UserError("the rekey interval is between 1 and 120 seconds")


def _check_capture(options: LaunchOptions) -> None:
    interface = options.capture_interface
    if interface is None and options.capture != "tap":
        raise UserError(
            f"--capture {options.capture!r} is neither tap nor pcap:IFACE", hint="for example --capture pcap:br0"
        )
    if interface == "":
        raise UserError("--capture pcap: names no interface", hint="for example --capture pcap:br0")
    if interface is not None and options.bridge != DEFAULT_BRIDGE:
        raise UserError(
            "--bridge names the bridge that --capture tap makes; with pcap none is made",
            hint="to plug containers into a bridge that is there, capture on it: --capture pcap:BRIDGE",
        )
