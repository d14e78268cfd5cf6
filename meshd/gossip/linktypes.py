"""What a control link and its owner share: times and limits, states, configuration, events."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from meshd.crypto.aead import AeadFactory, new_aead
from meshd.crypto.handshake import Authorize, Context
from meshd.crypto.wire import Liveness, MessageType, decode_header
from meshd.drops import DropCounters, DropReason
from meshd.gossip.messages import Message
from meshd.ids import HostId

__all__ = [
    "HANDSHAKE_TIME",
    "KEEPALIVE",
    "LINK_ANSWER_BURST",
    "LINK_ANSWER_RATE",
    "MAX_BAD_MESSAGES",
    "MAX_EVENTS",
    "NO_ANSWER",
    "OURSELF",
    "REKEY_LIMIT",
    "REKEY_RETRY",
    "REKEY_TIME",
    "SILENCE",
    "TRANSITIONS",
    "LinkClosed",
    "LinkConfig",
    "LinkEvent",
    "LinkFailed",
    "LinkReady",
    "LinkState",
    "MessageReceived",
    "refusal",
]

HANDSHAKE_TIME = 5.0
KEEPALIVE = 10.0
SILENCE = 30.0  # dead after this long without a frame
REKEY_TIME = 120.0
REKEY_RETRY = 20.0
REKEY_LIMIT = 180.0  # a link whose rekey never finished ends here, like every other key
MAX_EVENTS = 4096  # the shell stops reading while events wait; beyond this the peer is too fast
# PINGs and REKEY_INITs of one link that are answered, a second: whoever asks need not read the answers.
LINK_ANSWER_RATE = 4.0
LINK_ANSWER_BURST = 16.0
MAX_BAD_MESSAGES = 16  # messages that do not decode: one is a bug somewhere, many are an attack

NO_ANSWER = "no answer to our key: other mesh key, or port closed; `meshd key set` moves this host to the other mesh"
OURSELF = "cannot connect to ourself"


class LinkState(enum.Enum):
    NEW = enum.auto()
    HANDSHAKE = enum.auto()
    CONFIRMING = enum.auto()
    READY = enum.auto()
    CLOSED = enum.auto()


TRANSITIONS = {
    LinkState.NEW: (LinkState.HANDSHAKE, LinkState.CONFIRMING, LinkState.CLOSED),
    LinkState.HANDSHAKE: (LinkState.READY, LinkState.CLOSED),
    LinkState.CONFIRMING: (LinkState.READY, LinkState.CLOSED),
    LinkState.READY: (LinkState.CLOSED,),
    LinkState.CLOSED: (),
}


@dataclass(slots=True, frozen=True)
class LinkReady:
    """Authenticated. `ed25519` is from the binding (XX) or from the record that names the static key (IK)."""

    host: HostId
    ed25519: bytes
    static: bytes


@dataclass(slots=True, frozen=True)
class MessageReceived:
    message: Message


@dataclass(slots=True, frozen=True)
class LinkFailed:
    """Refused or broken; close the connection. `text` is for `status connections` (dialler) or the log (acceptor)."""

    reason: DropReason
    text: str
    other_mesh_key: bool = False
    ourself: bool = False


@dataclass(slots=True, frozen=True)
class LinkClosed:
    """Ended without a fault: the other end closed or said LEAVE (`left`), or fell silent."""

    text: str
    left: bool = False


LinkEvent = LinkReady | MessageReceived | LinkFailed | LinkClosed


@dataclass(slots=True, frozen=True, kw_only=True)
class LinkConfig:
    """What all links of a host share. `lookup`: X25519 key → the Ed25519 key whose record names it.

    It must answer None where several hosts' records name one key: whoever copies another's key into its own record gains nothing.

    `liveness` gives the next (boot, attempt) for a type 1; `authorize` refuses one that is not newer than the last of its sender.
    """

    context: Context
    lookup: Callable[[bytes], bytes | None]
    liveness: Callable[[], Liveness]
    authorize: Authorize
    index: Callable[[], int]
    rng: Random
    drops: DropCounters
    aead: AeadFactory = new_aead
    rekey_time: float = REKEY_TIME


def refusal(reason: DropReason, body: bytes, address: str) -> tuple[str, bool]:
    """The acceptor's text for a refused handshake message, and whether it came from a mesh with another key."""
    # a type 1 with a wrong mac1 is one meant for another host that was at this address once
    if reason is DropReason.BAD_MAC1 and decode_header(body) is MessageType.BOOTSTRAP_INIT:
        return f"{address} tried with another mesh key", True
    return f"{address}: handshake refused ({reason.name.lower()})", False
