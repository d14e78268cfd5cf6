"""What a node asks its driver to do; carried out in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshd.ids import Endpoint, HostId, LinkId, Mac
from meshd.node.queries import Answer

__all__ = [
    "Answered",
    "BlockPort",
    "CloseLink",
    "DialLink",
    "Output",
    "PersistBoot",
    "RememberHosts",
    "Resolve",
    "SendLink",
]


@dataclass(slots=True, frozen=True)
class DialLink:
    """Open a TCP stream; `link_connected` or `link_failed` follows."""

    link: LinkId
    endpoint: Endpoint


@dataclass(slots=True, frozen=True)
class SendLink:
    link: LinkId
    data: bytes = field(repr=False)


@dataclass(slots=True, frozen=True)
class CloseLink:
    """End a stream after what was sent; nothing is reported back."""

    link: LinkId


@dataclass(slots=True, frozen=True)
class Resolve:
    """Look up a host name; `resolved` with the same target follows."""

    target: str
    host: str


@dataclass(slots=True, frozen=True)
class PersistBoot:
    """The mesh remembers a later life of this host than its disk does: store at least this boot counter; `boot_raised` follows."""

    at_least: int


@dataclass(slots=True, frozen=True)
class RememberHosts:
    """Store where these hosts are, instead of those stored before; nothing is reported back. A restarted router is given them."""

    hosts: tuple[tuple[HostId, tuple[Endpoint, ...]], ...]


@dataclass(slots=True, frozen=True)
class Answered:
    """What became of a path query that was asked by `Node.ask`."""

    answer: Answer


@dataclass(slots=True, frozen=True)
class BlockPort:
    """The bridge port behind this MAC leads to a loop."""

    mac: Mac


Output = DialLink | SendLink | CloseLink | Resolve | PersistBoot | RememberHosts | Answered | BlockPort
