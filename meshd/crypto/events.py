"""What `Sessions` tells its owner, in the order in which to carry it out.

The packet engine holds the keys in tables of its own, so every key that comes, goes, or is to be sealed under is an event. An
added receive key comes before the reply that lets the other side use it leaves `poll_transmit`: drain events first, then
transmit.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from meshd.crypto.aead import Suite
from meshd.crypto.session import KeyPair
from meshd.ids import Address, Endpoint, HostId

__all__ = [
    "Event",
    "FailReason",
    "HandshakeFailed",
    "ReceiveKeyAdded",
    "ReceiveKeyRemoved",
    "SendKeyChanged",
    "SendKeyRemoved",
    "SessionLost",
    "SessionReady",
    "Stranger",
]


@enum.unique
class FailReason(enum.Enum):
    """Why there is no session, as `status connections` prints it."""

    NO_ANSWER = "no answer to our key: other mesh key, or port closed"
    NO_ENDPOINT = "no address known"
    BAD_KEY = "the peer's key is unusable"
    EXPIRED = "the session's keys expired"
    USED_UP = "the session's key sealed all it may"
    FORGOTTEN = "forgotten"
    TABLE_FULL = "too many sessions"


@dataclass(slots=True, frozen=True, kw_only=True)
class ReceiveKeyAdded:
    index: int
    peer: HostId
    suite: Suite
    key: bytes = field(repr=False)
    relay_key: bytes = field(repr=False)


@dataclass(slots=True, frozen=True, kw_only=True)
class ReceiveKeyRemoved:
    index: int


@dataclass(slots=True, frozen=True, kw_only=True)
class SendKeyChanged:
    """Seal for this peer under this fresh key from counter 0 on. Send something at once: it confirms the key to the other side."""

    peer: HostId
    suite: Suite
    key: bytes = field(repr=False)
    relay_key: bytes = field(repr=False)
    remote_index: int


@dataclass(slots=True, frozen=True, kw_only=True)
class SendKeyRemoved:
    peer: HostId


@dataclass(slots=True, frozen=True, kw_only=True)
class SessionReady:
    """There is a (new) key to seal under for this peer. `first`: there was none before.

    `endpoint`: where its handshake came from.
    """

    peer: HostId
    keypair: KeyPair
    endpoint: Address
    remote_static: bytes
    first: bool


@dataclass(slots=True, frozen=True, kw_only=True)
class SessionLost:
    """Nothing can be sealed for this peer any more."""

    peer: HostId
    reason: FailReason


@dataclass(slots=True, frozen=True, kw_only=True)
class HandshakeFailed:
    """Given up: a handshake with a peer (`peer`), or a bootstrap towards an address (`peer` None, `endpoint` given)."""

    peer: HostId | None
    endpoint: Address | None
    reason: FailReason


@dataclass(slots=True, frozen=True, kw_only=True)
class Stranger:
    """Somebody without our mesh key asked who we are: at most one of these in 10 s."""

    source: Endpoint


Event = (
    ReceiveKeyAdded
    | ReceiveKeyRemoved
    | SendKeyChanged
    | SendKeyRemoved
    | SessionReady
    | SessionLost
    | HandshakeFailed
    | Stranger
)
