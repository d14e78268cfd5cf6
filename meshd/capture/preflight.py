"""What the machine must have before anything is changed on it: rights, TUN/TAP, free names. All of it only looks.

What cannot work raises UserError; what works less well comes back as lines of warning.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pyroute2 import IPRoute

from meshd.capture.bridge import check_bridge
from meshd.capture.firewall import firewall_warning, forward_rejects
from meshd.capture.interface import look_at_interface
from meshd.capture.links import check_ifname, find_link
from meshd.errors import UserError

__all__ = ["check_machine", "check_pcap_machine", "check_rights", "kernel_warning"]

_CAP_NET_ADMIN = 12  # linux/capability.h
_KERNEL = re.compile(r"(\d+)\.(\d+)")
_GOOD_KERNEL = (5, 0)  # UDP_SEGMENT came with 4.18, UDP_GRO with 5.0
_TUN = Path("/dev/net/tun")


def check_machine(ipr: IPRoute, bridge: str, tap: str) -> list[str]:
    """Raises UserError; returns warnings, one line each. Blocks."""
    check_rights()
    _check_names(ipr, bridge, tap)
    warnings = [kernel_warning(os.uname().release), firewall_warning(), _forward_warning()]
    return [warning for warning in warnings if warning]


def check_pcap_machine(ipr: IPRoute, interface: str) -> list[str]:
    """The same where frames are captured on an interface that is there: no TUN/TAP, bridge or firewall rule is needed."""
    check_rights(tun=None)
    look_at_interface(ipr, interface)
    warning = kernel_warning(os.uname().release)
    return [warning] if warning else []


def check_rights(status: Path = Path("/proc/thread-self/status"), tun: Path | None = _TUN) -> None:
    """Raises UserError unless we may configure networks and there is TUN/TAP (None: it is not needed)."""
    effective = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    if not int(effective, 16) >> _CAP_NET_ADMIN & 1:
        raise UserError("the router needs root (CAP_NET_ADMIN) to make interfaces; run it with sudo")
    if tun is not None and not tun.exists():
        raise UserError(
            f"{tun} is missing: the kernel has no TUN/TAP",
            hint="load it with `modprobe tun`, or in a container start it with --device /dev/net/tun",
        )


def kernel_warning(release: str) -> str | None:
    match = _KERNEL.match(release)
    if match and (int(match[1]), int(match[2])) < _GOOD_KERNEL:
        return f"Linux {release} has no UDP segmentation offload in full (5.0 has): throughput will be low"
    return None


def _check_names(ipr: IPRoute, bridge: str, tap: str) -> None:
    check_bridge(ipr, bridge)
    if find_link(ipr, check_ifname(tap)) is not None:
        raise UserError(
            f"an interface {tap} exists already",
            hint="another router may be using it: give this one another --bridge, or remove the interface",
        )


def _forward_warning() -> str | None:
    try:
        rejects = forward_rejects()
    except OSError:  # no right or no kernel support to list rules: nothing to warn of
        return None
    if rejects:
        return "the firewall rejects all forwarding (-A FORWARD -j REJECT): traffic between containers and others may be refused"
    return None
