"""One whole mesh node, sans-I/O: bytes and timer ticks in, bytes and requests out. `now`, randomness, signer, verifier and AEAD are
arguments, so a thousand nodes run in one process on a virtual clock, and the same code runs on the wire.

    upcalls      what the engine asks: verdicts, flood trees; notes what came in for later
    peers        slots, sessions, paths
    links        control links: whom to dial, handshakes, messages to and from gossip
    neighbours   whom links and paths are kept with
    directory    what the records say, as tables
    own          what this host says of itself
    sightings    MACs captured here: claimed, aged, looked at again
    epochs       a later life of this host is known: raise the boot counter beyond it
    hops         next hops that led nowhere, and whose turn it is
    changes      what records and paths change, to those that it concerns
    reach        which hosts are alive
    queries      questions to other routers about their paths
    ways         how this host reaches another one, as it answers such a question
    lookup       what a word that a person types names
    memory       where the hosts were, for the next life of this router
    node         composes them: the only place that knows all of them
    view         what `status` and `report` show of it

The driver's contract: after anything that goes in, if `touched`, carry out `poll_transmit` and arm a timer for `next_deadline`.
A timer that is more than LATE_S late comes before everything else, so that no frame meets a key that has expired.
"""

from __future__ import annotations

from meshd.node.node import LATE_S, Node
from meshd.node.outputs import (
    Answered,
    BlockPort,
    CloseLink,
    DialLink,
    Output,
    PersistBoot,
    RememberHosts,
    Resolve,
    SendLink,
)

__all__ = [
    "LATE_S",
    "Answered",
    "BlockPort",
    "CloseLink",
    "DialLink",
    "Node",
    "Output",
    "PersistBoot",
    "RememberHosts",
    "Resolve",
    "SendLink",
]
