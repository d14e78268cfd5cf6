"""What an engine is given, what it answers, and what it asks: the seam between deciding once and forwarding fast.

The engine owns the packet path: it reads super-frames from the frame port (TAP), looks up the flow, seals into datagrams, sends
them in batches; and back. Everything that it looks up was written into it through `Engine`; everything that it does not know it
asks through `Upcalls`, synchronously, once for each flow. It holds no policy, no names, no host ids: slots, indices, MACs and keys.

Packet order, outbound:
  1. read (vnet_hdr 10 B + frame, up to 64 KB of one TCP flow)          drop: BAD_FRAME
  2. flow lookup by (segment, destination MAC, source MAC)              miss: Upcalls.decide_outbound
  3. slot: drop reason | LOCAL | peer | flood tree | group               ARP, ND, IGMP, MLD to a group: Upcalls.inspect
  4. segment, or cut in pieces, to the path's size (see oversize.py);   drop: TOO_BIG
     aggregate small frames for one peer
  5. seal each datagram under the slot's send key, counter + 1          no key yet: wait (64 frames a peer), Upcalls.session_wanted
  6. send: equal sizes in one UDP_SEGMENT call                          drop: SEND_FAILED, QUEUE_FULL, TOO_BIG, NO_PATH
Inbound:
  1. receive (UDP_GRO: up to 64 KB of equal datagrams, last one short)
  2. type 4 only; 8 is unwrapped or passed on (see relaying.py); all    drop: TRUNCATED, UNKNOWN_VERSION, UNKNOWN_SEGMENT
     others: Upcalls.receive_handshake
  3. receiver index → key; replay look-up                               drop: UNKNOWN_INDEX, REPLAYED, TOO_OLD
  4. open; replay commit; first datagram under a key: Upcalls.key_confirmed     drop: BAD_TAG
  5. entries: frame → flow lookup by (slot, destination, source), miss: Upcalls.decide_inbound; control → Upcalls.receive_control;
     flood → deduplicate, deliver, pass to the origin's children       drop: BAD_ENTRY, FLOOD_*, NOT_LOCAL
     piece → kept until the others are there                           drop: BAD_FRAGMENT, FRAGMENT_LOST
  6. coalesce TCP segments whose checksum the sender's kernel vouched for; write to the frame port   drop: TAP_DOWN

Buffers: whatever is handed to an upcall is *borrowed*: valid until the upcall returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from meshd.crypto.aead import Suite
from meshd.drops import DropCounters, Unsent
from meshd.ids import Address, Endpoint, Mac, SegmentId, ShortId, SlotId

__all__ = [
    "DatagramPort",
    "Engine",
    "FlowView",
    "FramePort",
    "Inspected",
    "Mirror",
    "PeerCounters",
    "Received",
    "Upcalls",
    "Verdict",
]

Buffer = bytes | bytearray | memoryview


class Verdict(NamedTuple):
    """Where the frames of a flow go. `cached` False: ask again for the next frame (budgets, unknown destinations)."""

    slot: SlotId
    cached: bool = True


class Inspected(NamedTuple):
    """What becomes of a captured frame that the node has read itself."""

    forward: bool = True  # where its flow leads
    reply: bytes = b""  # a frame for the port that it came from
    peers: Sequence[SlotId] = ()  # hosts that it goes to instead, as a plain frame


# One read from a datagram port: (data, segment_size, source, overflow). `data` holds datagrams of `segment_size` bytes each, the
# last one may be shorter; it is the caller's and never empty. `overflow` is the port's count of datagrams that the
# kernel dropped, so far. A plain tuple, so that the ports of meshd.net and meshd.testing need not know this module.
Received = tuple[bytes, int, Endpoint, int]


class FramePort(Protocol):
    """The local side: a TAP with vnet_hdr, a pcap port, or a memory device in tests. Non-blocking.

    Where an attribute `direct` is true, the native engine reads and writes the descriptor itself: one packet is one frame, with its
    vnet header in front. It asks `fileno` for it at each pump, and takes a closed port (-1) for one that is down. Both engines
    then rely on the descriptor being readable as long as something waits.
    """

    def fileno(self) -> int: ...

    def read(self) -> memoryview | None:
        """vnet_hdr + frame in a writable buffer, borrowed until the next read: the engine cuts super-frames in place.

        None when there is nothing to read; empty for a frame that was lost in reading. Raises OSError (adapter).
        """
        ...

    def write(self, parts: Sequence[Buffer]) -> bool:
        """Write vnet_hdr + frame given in parts; False when the device is down or full (the caller counts). Raises OSError."""
        ...


class DatagramPort(Protocol):
    """One UDP socket of one address family. Non-blocking. `direct` as in a FramePort: `fileno` is a UDP socket's, and an attribute
    `segmenting` says whether there is UDP_SEGMENT, and is made false where it is refused."""

    family: int  # 4 or 6

    def fileno(self) -> int: ...

    def receive(self) -> Received | None: ...

    def send(self, parts: Sequence[Buffer], segment_size: int, destination: Endpoint) -> Unsent | None:
        """Send the joined parts, cut by the kernel into datagrams of `segment_size` (0: the parts are one datagram).

        At most 64 datagrams and 64 000 bytes. Where the kernel or device refuses UDP_SEGMENT the port cuts itself, and remembers.
        Returns how many were not sent, and why: QUEUE_FULL (EAGAIN, ENOBUFS), TOO_BIG (EMSGSIZE), SEND_FAILED (any other).
        """
        ...


class Mirror(Protocol):
    """Somebody looks at the inner frames (`meshd capture`). Called on the loop's thread; must not raise."""

    def __call__(self, inward: bool, slot: SlotId, frame: Buffer) -> None:
        """Outward: a captured frame and the slot that its flow points to. Inward: a frame about to be delivered, and the peer
        whose datagram brought it. The frame is borrowed; a super-frame comes whole, and a checksum may be partial."""
        ...


@dataclass(slots=True)
class PeerCounters:
    """What passed between this host and one peer; frames are inner frames after segmentation, bytes are outer UDP payload."""

    frames_out: int = 0
    frames_in: int = 0
    datagrams_out: int = 0
    datagrams_in: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    data_out: int = 0  # datagrams sealed under the present send key: the rekey limit counts these
    last_heard: float = float("-inf")  # `now` of the last authenticated datagram
    relayed_out: int = 0  # datagrams of type 8 sent to this peer as the next hop: our own and those of others
    relayed_bytes_out: int = 0
    relayed_bytes_in: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class FlowView:
    """One cached flow, for `trace`."""

    outbound: bool
    source_slot: SlotId | None  # inbound flows: the peer it came from
    segment: SegmentId
    source: Mac
    destination: Mac
    slot: SlotId
    frames: int
    bytes: int
    last_used: float


class Upcalls(Protocol):
    """What an engine asks of the node. Called on the loop's thread, never re-entered from within an Engine call of the node."""

    def decide_outbound(self, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        """First captured frame of a flow. The node learns the source as local here."""
        ...

    def decide_inbound(self, peer: SlotId, segment: SegmentId, source: Mac, destination: Mac, now: float) -> Verdict:
        """First frame of a flow out of the mesh: LOCAL, a drop slot, or a peer's slot: the MAC's owner is another host.

        The engine passes such a frame on as a flood entry of ttl 1, which nobody passes on again.
        """
        ...

    def flood_children(self, origin: ShortId, now: float) -> Sequence[SlotId] | None:
        """This host's children (peers' slots) in the origin's flood tree; None: unknown origin. Cached until void_trees."""
        ...

    def group_members(self, segment: SegmentId, group: Mac, now: float) -> Sequence[SlotId] | None:
        """The peers that get frames for this group, each as a plain frame; None: the flood tree. Cached until void_groups."""
        ...

    def inspect(self, segment: SegmentId, frame: memoryview, now: float) -> Inspected:
        """A captured frame to a group address whose kind the node reads (`forward.inspect.is_inspected`)."""
        ...

    def session_wanted(self, peer: SlotId, now: float) -> None:
        """Frames wait for a session with this peer."""
        ...

    def key_confirmed(self, index: int, now: float) -> None:
        """The first authentic datagram under this receive key has come in."""
        ...

    def receive_handshake(self, data: memoryview, source: Address, now: float) -> None:
        """A datagram of another type than 4 and 8; nothing about it is authenticated.

        A relayed one: that its source is true says the last hop only, which is a member.
        """
        ...

    def receive_control(
        self, peer: SlotId, index: int, counter: int, body: memoryview, source: Address, now: float, *, newest: bool
    ) -> None:
        """An authenticated entry of kind 1 (probe, echo, bye …), without its entry header.

        `newest`: nothing newer has come in under this key, so that no copy held back can have come from a better place.
        """
        ...

    def relay_next(self, destination: ShortId, now: float) -> SlotId | None:
        """The next hop of a relayed datagram for that host: a peer with a direct path. Cached, None too, until void_routes."""
        ...


class Engine(Protocol):
    """An engine's tables and pumps. All calls come from the loop's thread; none blocks for longer than a pump takes."""

    name: str  # "python", "native"
    drops: DropCounters

    # tables
    def set_send_key(self, peer: SlotId, suite: Suite, key: bytes, receiver_index: int, relay_key: bytes = b"") -> None:
        """Seal for this peer under a *fresh* key from counter 0 on; waiting frames go out.

        `relay_key` seals what this peer is asked to pass on; without one it is asked nothing.

        Raises LocalProtocolError for the key that is in use: its counters, and so its nonces, would start again.
        """
        ...

    def drop_send_key(self, peer: SlotId) -> None: ...

    def set_path(
        self,
        peer: SlotId,
        endpoint: Address | None,
        max_datagram: int,
        via: SlotId | None = None,
        *,
        aggregate_limit: int | None = None,
        measured: bool = False,
    ) -> None:
        """Where this peer's datagrams go and how large they may be (type 4 as UDP payload); None: nowhere (drop NO_PATH).

        To `Relayed(…)`: each in a datagram of type 8, sent where the *direct* path of `via` leads; `max_datagram` is that of the
        datagram inside.
        `aggregate_limit`: how large those of several entries may be, no larger than one entry; None: AGGREGATE_LIMIT, or what the
        path takes if that is less.
        `measured`: the size is found out, not a guess: senders of larger frames may be told (ICMP).
        """
        ...

    def add_receive_key(self, index: int, peer: SlotId, suite: Suite, key: bytes, relay_key: bytes = b"") -> None: ...

    def drop_receive_key(self, index: int) -> None: ...

    def void_flows(self, mac: Mac | None = None) -> int:
        """Forget the cached flows that have this MAC at either end (None: all); returns how many."""
        ...

    def void_trees(self) -> None:
        """The topology changed: ask for flood children again."""
        ...

    def raise_boot(self, boot: int) -> None:
        """This host's boot counter is higher than it knew: floods under the old one are taken for those of a former life."""
        ...

    def void_groups(self) -> None:
        """Memberships changed: ask for group members again."""
        ...

    def void_routes(self) -> None:
        """Topology or paths changed: ask for next hops again."""
        ...

    # what the node sends itself
    def send_frame(self, frame: bytes) -> bool:
        """Write a frame of the node's own to the frame port; False, counted, when it cannot be."""
        ...

    def send_control(
        self, peer: SlotId, body: bytes, endpoint: Address | None = None, via: SlotId | None = None
    ) -> bool:
        """Seal one entry of kind 1, alone in its datagram, and send it at once, to `endpoint` instead of the path if given."""
        ...

    def send_datagram(self, data: bytes, endpoint: Endpoint) -> None:
        """Send a handshake message as it is."""
        ...

    def send_relayed(self, data: bytes, destination: ShortId, via: SlotId) -> None:
        """The same, passed on by other hosts, of which `via` is the first."""
        ...

    def replace_frames(self, frames: FramePort) -> None:
        """The frame port was lost and made anew; flows, keys and paths stay."""
        ...

    def set_mirror(self, mirror: Mirror | None) -> None:
        """Show every inner frame to `mirror` from now on; None: nobody looks, and the packet path is as it was."""
        ...

    # who pumps
    def start(self) -> int | None:
        """None: the caller calls the pumps, whenever a port is readable.

        Else the engine pumps by itself from now on, and the caller calls `take_upcalls` whenever this descriptor is readable.
        """
        ...

    def stop(self) -> None:
        """No pump runs any more; ports may be closed. May be called again."""
        ...

    def pump_until(self, now: float) -> None:
        """Later than that an engine that pumps by itself waits, and asks for `take_upcalls`: keys may have expired meanwhile."""
        ...

    def drop_frames(self) -> None:
        """The frame port is about to be closed: an engine that pumps by itself waits for it no longer."""
        ...

    def take_upcalls(self, now: float) -> bool:
        """What an engine that pumps by itself had to leave, for 1 ms at most; True: more waits. Raises as `pump_frames` does."""
        ...

    # the packet path
    def pump_frames(self, now: float) -> bool:
        """Move frames outward until the port is empty or the budget (1 ms or 1 MiB) is used; True: more may be waiting.

        After a while without any, one frame: see `PythonEngine`.
        """
        ...

    def pump_datagrams(self, port: DatagramPort, now: float) -> bool:
        """The same, inward, for one port."""
        ...

    # what it has seen
    def peer_counters(self) -> Mapping[SlotId, PeerCounters]: ...

    def sent(self, peer: SlotId) -> PeerCounters:
        """One peer's: what went out is up to date, what came in as of the last `peer_counters`, which looks at all keys."""
        ...

    def flow_count(self) -> int: ...

    def sources(self, since: float) -> Iterator[tuple[bool, Mac, float]]:
        """Source MACs of flows that were used since then, whether those frames were captured here, and when the last one was."""
        ...

    def flows(self, mac: Mac | None = None) -> Sequence[FlowView]:
        """Those with this MAC at either end; None: all of them, which takes milliseconds for thousands."""
        ...
