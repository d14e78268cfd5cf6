"""Where frames come from and go to on this host: `tap`, a bridge and a TAP of our own, or `pcap:IFACE`, what is there already.

    tap           make the bridge, a TAP as its port, the firewall rule; containers plug into that bridge
    pcap:BRIDGE   capture on a bridge of others; containers plug into it; its MAC, MTU and firewall stay its owner's
    pcap:IFACE    capture on a NIC or veth; there is nothing to plug containers into

Both are made once, and mended when others took something away: `mend` puts right what it can and says whether the port still
works; if not, the owner stops reading, `close`s it, and `reopen` gives a new one, which then must `join`. What is given an IPRoute
is called on the netlink thread and may block, as `count` may, in a thread of its own.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Protocol

from pyroute2 import IPRoute

from meshd.capture.bridge import enslave, ensure_bridge, remove_bridge
from meshd.capture.firewall import ensure_rules, remove_rules
from meshd.capture.interface import look_at_interface
from meshd.capture.links import find_link
from meshd.capture.pcap import Offload, PcapPort, open_pcap, underlay_filter
from meshd.capture.tap import TapDevice, open_tap, prepare_tap, tap_tx_dropped
from meshd.capture.veth import rejoin
from meshd.config import LaunchOptions
from meshd.daemon.preflight import tap_name
from meshd.drops import DropCounters, DropReason
from meshd.forward.engine.interface import FramePort
from meshd.forward.offload import finished_frames, with_vnet
from meshd.ids import Mac

__all__ = ["Capturing", "PcapCapturing", "TapCapturing", "capturing_for"]

_log = logging.getLogger(__name__)


class Capturing(Protocol):
    bridge: str  # that containers are plugged into; "" where there is none
    host_mtu: int  # of the hosts' ends of their interfaces; 0: as the containers'
    links: frozenset[str]  # whose removal calls for `mend`
    has_rule: bool  # a firewall rule of ours belongs to it
    warnings: tuple[str, ...]  # for whoever launched

    @property
    def port(self) -> FramePort | None: ...

    def make(self, ipr: IPRoute) -> None:
        """Raises UserError or OSError; then `undo` is called."""
        ...

    def mend(self, ipr: IPRoute) -> bool: ...

    def reopen(self, ipr: IPRoute) -> FramePort:
        """Raises UserError or OSError while it cannot be."""
        ...

    def join(self, ipr: IPRoute) -> None: ...

    def close(self) -> None:
        """May be called again."""
        ...

    def undo(self, ipr: IPRoute) -> None:
        """Close, and remove what `make` made."""
        ...

    def describe(self) -> str:
        """For status, as Weave has it: "meshd-tap (via tap)"."""
        ...

    def offloads(self) -> tuple[str, ...]: ...

    def count(self) -> None:
        """Look at what the kernel has counted, for `drops`."""
        ...

    def drops(self) -> dict[str, int]:
        """What was lost before the engine could see it. Does not block."""
        ...


def capturing_for(options: LaunchOptions, mac: Mac, mtu: int) -> Capturing:
    """`mac`: of a bridge that is made. `mtu`: of containers' interfaces."""
    if options.capture_interface is None:
        return TapCapturing(options.bridge, mac, mtu)
    return PcapCapturing(options.capture_interface, mtu, options.port)


class TapCapturing:
    """A bridge of our own with a TAP as one of its ports."""

    has_rule = True
    host_mtu = 0
    warnings: tuple[str, ...] = ()

    def __init__(self, bridge: str, mac: Mac, mtu: int) -> None:
        self.bridge = bridge
        self.port: TapDevice | None = None
        self._name = tap_name(bridge)
        self.links = frozenset({bridge, self._name})
        self._mac = mac
        self._mtu = mtu
        self._bridge_made = False
        self._rule_made = False
        self._dropped = self._past = 0  # by the kernel: of this TAP, and of those before

    def make(self, ipr: IPRoute) -> None:
        self._bridge_made = ensure_bridge(ipr, self.bridge, self._mac, self._mtu)
        self.port = open_tap(self._name)
        self.join(ipr)
        self._rule_made = self._allow_forwarding()

    def _allow_forwarding(self) -> bool:
        """True if the rule was missing. A firewall that cannot be asked costs a warning: on many hosts bridged frames never meet
        it."""
        try:
            return ensure_rules(self.bridge)
        except OSError as error:
            _log.warning("cannot add the firewall rule for %s: %s", self.bridge, error)
            return False

    def mend(self, ipr: IPRoute) -> bool:
        ensure_bridge(ipr, self.bridge, self._mac, self._mtu)
        rejoin(ipr, self.bridge)
        self._allow_forwarding()
        if self.port is None or not self.port.there:
            return False
        self.join(ipr)
        return True

    def reopen(self, ipr: IPRoute) -> TapDevice:
        self.port = open_tap(self._name)
        return self.port

    def join(self, ipr: IPRoute) -> None:
        """Make the TAP a port of the bridge."""
        prepare_tap(ipr, self._name, self._mtu)
        enslave(ipr, self._name, self.bridge)

    def close(self) -> None:
        if self.port is not None:
            self.port.close()
            self.port = None
            self._past, self._dropped = self._past + self._dropped, 0

    def undo(self, ipr: IPRoute) -> None:
        self.close()
        if self._bridge_made:
            remove_bridge(ipr, self.bridge)
        if self._rule_made:
            with contextlib.suppress(OSError):
                remove_rules(self.bridge)

    def describe(self) -> str:
        return f"{self._name} (via tap)"

    def offloads(self) -> tuple[str, ...]:
        return self.port.offloads if self.port is not None else ()

    def count(self) -> None:
        self._dropped = tap_tx_dropped(self._name)

    def drops(self) -> dict[str, int]:
        dropped = self._past + self._dropped
        return {DropReason.KERNEL_TAP.name.lower(): dropped} if dropped else {}


class PcapCapturing:
    """An interface of others. Nothing on it is changed but promiscuous mode, which ends with the port."""

    has_rule = False

    def __init__(self, name: str, mtu: int, udp_port: int) -> None:
        self.bridge = ""
        self.host_mtu = 0
        self.port: PcapPort | None = None
        self.links = frozenset({name})
        self.warnings: tuple[str, ...] = ()
        self._name = name
        self._mtu = mtu
        self._udp_port = udp_port
        self._past = DropCounters()  # of ports that are closed
        self._facts = Mac(bytes(6)), 0  # MAC and MTU of the interface, by which the port filters and cuts

    def make(self, ipr: IPRoute) -> None:
        self.reopen(ipr)

    def mend(self, ipr: IPRoute) -> bool:
        if self.bridge and find_link(ipr, self.bridge) is not None:
            rejoin(ipr, self.bridge)
        found = find_link(ipr, self._name)
        changed = found is not None and (found.mac, found.mtu) != self._facts
        return not changed and self.port is not None and self.port.there

    def reopen(self, ipr: IPRoute) -> PcapPort:
        found = look_at_interface(ipr, self._name)
        self._facts = found.mac, found.mtu
        offload = Offload(with_vnet, finished_frames)
        unwanted = underlay_filter(found.mac, found.addresses, self._udp_port)
        self.port = open_pcap(self._name, found.mtu, self._mtu, offload, unwanted)
        self.bridge, self.host_mtu = (found.name, found.mtu) if found.is_bridge else ("", 0)
        self.warnings = self._size_warning(found.mtu)
        return self.port

    def _size_warning(self, mtu: int) -> tuple[str, ...]:
        if mtu <= self._mtu:
            return ()
        fits = "TCP is cut to fit, for the rest set the MTU of what is behind it"
        return (f"{self._name} has an MTU of {mtu}, the mesh carries {self._mtu}: {fits}",)

    def join(self, ipr: IPRoute) -> None:
        """It is where it is; containers' interfaces go back into a bridge that was made anew."""
        self.mend(ipr)

    def close(self) -> None:
        if self.port is not None:
            for reason, count in self._counted(self.port):
                self._past.add(reason, count)
            self.port.close()
            self.port = None

    def undo(self, ipr: IPRoute) -> None:
        self.close()

    def describe(self) -> str:
        gone = "" if self.port is not None and self.port.there else ", which is gone"
        return f"{self._name} (via pcap{gone})"

    def offloads(self) -> tuple[str, ...]:
        return ()

    @staticmethod
    def _counted(port: PcapPort) -> list[tuple[DropReason, int]]:
        return [*port.drops.items(), (DropReason.KERNEL_TAP, port.kernel_dropped())]

    def count(self) -> None:
        """libpcap asks the socket, at once."""

    def drops(self) -> dict[str, int]:
        total = DropCounters()
        for reason, count in [*self._past.items(), *(self._counted(self.port) if self.port is not None else ())]:
            total.add(reason, count)
        return total.as_dict()
