"""Everything that can be set, in frozen dataclasses: one router's folders, what `launch` was asked for, what a node runs with.

Standard library only. Defaults stand here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshd.ids import DEFAULT_PORT, Endpoint, Mac

__all__ = [
    "DEFAULT_BRIDGE",
    "DEFAULT_IFNAME",
    "DEFAULT_MESH",
    "LINK_OVERHEAD",
    "MAX_INTERFACE_MTU",
    "MIN_INTERFACE_MTU",
    "LaunchOptions",
    "NodeConfig",
    "Paths",
    "Secret",
    "interface_mtu",
]

DEFAULT_BRIDGE = "meshd"
DEFAULT_IFNAME = "mesh0"
DEFAULT_MESH = "meshd"
LINK_OVERHEAD = {
    4: 128,
    6: 148,
}  # underlay MTU − interface MTU, so that direct, relayed and flooded frames all fit (protocol § 1)
MIN_INTERFACE_MTU = 576
MAX_INTERFACE_MTU = 16_000  # an entry's length has 14 bits


class Secret:
    """A string that never shows itself: not in a repr, a log, a traceback or a dataclass printed by mistake."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(slots=True, frozen=True)
class Paths:
    """Where one router keeps what it has: run-time files and persistent state, both moved by MESHD_DIR."""

    run: Path
    state: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Paths:
        """MESHD_DIR holds everything of one router, so that many run on one machine; else the system's folders."""
        folder = environment.get("MESHD_DIR")
        if folder:
            root = Path(folder).absolute()
            return cls(run=root, state=root)
        return cls(run=Path("/run/meshd"), state=Path("/var/lib/meshd"))

    @property
    def socket(self) -> Path:
        return self.run / "meshd.sock"

    @property
    def pid_file(self) -> Path:
        return self.run / "meshd.pid"

    @property
    def supervisor_pid_file(self) -> Path:
        return self.run / "supervisor.pid"

    @property
    def log(self) -> Path:
        return self.run / "meshd.log"

    @property
    def lock(self) -> Path:
        """Held by the router's supervisor for as long as it lives: two routers in one folder cannot be."""
        return self.run / "meshd.lock"

    @property
    def db(self) -> Path:
        """All that persists. Deleting it while the router is stopped makes this a new host."""
        return self.state / "db"

    @property
    def key_file(self) -> Path:
        return self.db / "mesh.key"

    @property
    def identity_file(self) -> Path:
        return self.db / "identity"

    @property
    def database(self) -> Path:
        return self.db / "state.sqlite"


@dataclass(slots=True, frozen=True, kw_only=True)
class LaunchOptions:
    """What the user asked `meshd launch` for. None: not given."""

    peers: tuple[str, ...] = ()
    foreground: bool = False
    bridge: str = DEFAULT_BRIDGE
    port: int = DEFAULT_PORT
    advertise: tuple[
        str, ...
    ] = ()  # ADDR or ADDR:PORT at which others may reach this host, beside those it finds itself
    host: str | None = None  # bind address of UDP and TCP; None: all
    mtu: int | None = None  # interface MTU; None: from the underlay
    mesh: str = DEFAULT_MESH  # the name that salts a password
    name: str | None = None  # peer name, MAC notation; None: from the host's key
    nickname: str | None = None  # None: the host name
    engine: str = "auto"
    pump: str = "auto"  # or loop, thread: who moves frames
    capture: str = "tap"  # or pcap:IFACE
    discovery: bool = True
    restart: bool = True
    resume: bool = False
    key: Secret | None = None
    key_file: Path | None = None
    password: Secret | None = None
    password_file: Path | None = None
    log_level: str = "info"
    rekey_interval_s: float | None = None  # tests turn the 120 s down

    @property
    def capture_interface(self) -> str | None:
        """The IFACE of pcap:IFACE; None with a TAP of our own."""
        mode, _, interface = self.capture.partition(":")
        return interface if mode == "pcap" else None


@dataclass(slots=True, frozen=True, kw_only=True)
class NodeConfig:
    """What one node runs with; the same on the wire and in a simulation."""

    name: Mac
    nickname: str
    version: str
    port: int = DEFAULT_PORT
    advertise: tuple[Endpoint, ...] = ()  # what the user says; published first
    endpoints: tuple[str, ...] = ()  # numeric addresses, without port, at which others may reach this host
    own_addresses: frozenset[str] = field(default_factory=frozenset)  # every address of this machine: never a peer's
    discovery: bool = True
    mtu: int = 1372  # interface MTU
    underlay_mtu: int = 1500
    rekey_interval_s: float = 120.0


def interface_mtu(underlay_mtu: int, family: int = 4) -> int:
    """The MTU of containers' interfaces over this underlay: 1372 at 1500. Raises ValueError below MIN_INTERFACE_MTU."""
    mtu = min(underlay_mtu - LINK_OVERHEAD[family], MAX_INTERFACE_MTU)
    if mtu < MIN_INTERFACE_MTU:
        raise ValueError(f"an underlay MTU of {underlay_mtu} leaves no room for frames")
    return mtu
