"""What the connector asks of the shell, and how it lists an address that no link is up with."""

from __future__ import annotations

from dataclasses import dataclass

from meshd.gossip.targets import Target
from meshd.ids import Endpoint, HostId, LinkId

__all__ = ["Close", "Connection", "Dial", "Request", "Resolve", "waiting_row"]


@dataclass(slots=True, frozen=True)
class Resolve:
    """Look up the target's host name and call `resolved`."""

    target: Target


@dataclass(slots=True, frozen=True)
class Dial:
    """Open a TCP connection. `host`: who is expected there, None if unknown. `bootstrap`: use XX even if its key is known."""

    endpoint: Endpoint
    host: HostId | None
    bootstrap: bool


@dataclass(slots=True, frozen=True)
class Close:
    """A second link with the same host: end it, without LEAVE, which says that the host itself goes."""

    link: LinkId


Request = Resolve | Dial | Close


@dataclass(slots=True, frozen=True)
class Connection:
    """One line of `status connections`. `host` is set where a link is up."""

    address: str
    outbound: bool
    state: str
    info: str
    host: HostId | None = None


def waiting_row(address: str, error: str, *, dialling: bool, wait: float | None) -> Connection:
    """`wait`: seconds until the next attempt, None if there will be none. Whatever is tried again by itself is `retrying`."""
    if wait is None:
        return Connection(address, True, "failed", f"{error}, retry: never")
    if not error:
        return Connection(address, True, "connecting", "")
    if dialling:
        return Connection(address, True, "retrying", error)
    return Connection(address, True, "retrying", f"{error}, retry: in {max(0.0, wait):.0f} s")
