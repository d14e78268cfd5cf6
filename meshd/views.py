"""What a router shows of itself: plain snapshots, made by the node and the daemon, turned into JSON by `control.report`.

Standard library only. A view is a copy: nobody changes the router through it. Units are in the names; a time is an age in seconds,
since no two hosts share a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "AttachmentView",
    "BridgeView",
    "ConnectionView",
    "FrameView",
    "GossipView",
    "LegView",
    "LinkView",
    "LoopView",
    "MacView",
    "NodeView",
    "PathView",
    "PeerView",
    "PingView",
    "RouteView",
    "RouterView",
    "TraceView",
]


@dataclass(slots=True, frozen=True, kw_only=True)
class LinkView:
    """One edge of the topology as one end sees it: `status peers` prints these below each peer."""

    name: str
    nickname: str
    address: str  # ip:port of the other end; "" where only gossip tells of the edge
    outbound: bool
    established: bool


@dataclass(slots=True, frozen=True, kw_only=True)
class PeerView:
    """A host of the mesh, self included (first)."""

    name: str  # MAC notation
    nickname: str
    host_id: str  # hex
    version: str
    epoch: int  # boot counter
    reachable: bool
    links: tuple[LinkView, ...] = ()


@dataclass(slots=True, frozen=True, kw_only=True)
class ConnectionView:
    """One line of `status connections`."""

    address: str
    outbound: bool
    state: str  # connecting | failed | retrying | pending | established
    info: str  # the error text, or what stands for a live link in Weave's listing
    name: str = ""
    nickname: str = ""
    attributes: dict[str, str] = field(default_factory=dict)  # printed as k=v with spaces between


@dataclass(slots=True, frozen=True, kw_only=True)
class PathView:
    """How data reaches one peer, and why so."""

    name: str
    nickname: str
    kind: str  # direct | relay
    endpoint: str  # where datagrams for it leave to: of a relay, the relay's
    state: str  # idle | probing | alive | suspect | dead | no session
    reason: str  # why this path is in use, or why there is none
    mtu: int  # largest inner frame payload (IP MTU) that one datagram of this path carries
    measured: bool  # nothing larger passes; else larger sizes are being tried
    rtt_ms: float | None
    loss: float  # 0..1 over the last probes
    since_s: float
    session_age_s: float | None
    frames_out: int
    frames_in: int
    bytes_out: int
    bytes_in: int
    via: str = ""  # label of the host that passes it on
    datagrams_out: int = 0
    datagrams_in: int = 0
    relayed_bytes_out: int = 0  # in datagrams that this peer passes on, or gets for us to pass on to it
    relayed_bytes_in: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class MacView:
    """One row of `status macs`."""

    mac: str
    name: str  # owner
    nickname: str
    kind: str  # attachment | learned
    local: bool
    label: str  # container, where an attachment names one
    addresses: tuple[str, ...]
    claim: int
    state: str  # "" | frozen | conflict
    last_seen_s: float | None


@dataclass(slots=True, frozen=True, kw_only=True)
class RouteView:
    destination: str
    via: tuple[str, ...]


@dataclass(slots=True, frozen=True, kw_only=True)
class GossipView:
    hosts: int
    records: int
    bytes: int
    root_hash: str
    epoch: int


@dataclass(slots=True, frozen=True, kw_only=True)
class NodeView:
    """What the node knows; the daemon adds the machine's part in RouterView."""

    name: str
    nickname: str
    host_id: str
    mesh_id: str
    suite: str  # aes-256-gcm | chacha20-poly1305 | plain
    discovery: bool
    port: int
    protocol_min: int
    protocol_max: int
    targets: tuple[str, ...]
    peers: tuple[PeerView, ...]
    connections: tuple[ConnectionView, ...]
    paths: tuple[PathView, ...]
    macs: tuple[MacView, ...]
    unicast_routes: tuple[RouteView, ...]
    broadcast_routes: tuple[RouteView, ...]
    address_conflicts: tuple[str, ...]  # one line each
    notices: tuple[str, ...]  # one line each: other mesh keys met, frozen MACs, …
    gossip: GossipView
    drops: dict[str, int]
    flows: int


@dataclass(slots=True, frozen=True, kw_only=True)
class AttachmentView:
    """One line of `ps`."""

    id: str  # the full container id, or pid:N / netns:NAME as given
    label: str  # what to print, at most 12 characters of the id
    name: str  # the container's name
    mac: str
    addresses: tuple[str, ...]  # CIDRs in the order of attaching
    ifname: str
    host_ifname: str
    port_security: bool = False
    drops: dict[str, int] = field(default_factory=dict)  # by the guard of the host end, by reason


@dataclass(slots=True, frozen=True, kw_only=True)
class BridgeView:
    """The bridge and what is plugged into it: all that `ps` shows."""

    bridge: str  # "" where frames are captured elsewhere
    mtu: int
    attachments: tuple[AttachmentView, ...]


@dataclass(slots=True, frozen=True, kw_only=True)
class FrameView:
    """One inner frame that `meshd capture` shows."""

    time: float  # seconds since 1970, by this host's clock
    inward: bool  # out of the mesh
    peer: str  # name(nickname) of the host that it goes to or came from; "" where `note` says why there is none
    note: str
    frame: bytes


@dataclass(slots=True, frozen=True, kw_only=True)
class LoopView:
    """How the event loop is doing: callbacks over 2 ms are counted."""

    lag_p99_ms: float
    slow_callbacks: int


@dataclass(slots=True, frozen=True, kw_only=True)
class RouterView:
    version: str
    pid: int
    uptime_s: float
    node: NodeView
    engine: str
    engine_reason: str  # why this engine
    capture: str  # "meshd-tap (via tap)"
    bridge: str
    mtu: int
    offloads: str  # "tso, uso, udp gso, udp gro" …
    attachments: tuple[AttachmentView, ...]
    loop: LoopView
    rss_mib: float


@dataclass(slots=True, frozen=True, kw_only=True)
class PingView:
    """One question to the router that has what was asked for, and what became of it."""

    target: str  # what the word named
    name: str  # of the router that was asked
    nickname: str
    rtt_ms: float | None  # None: no answer in time
    path: PathView | None  # None: it is this host


@dataclass(slots=True, frozen=True, kw_only=True)
class LegView:
    """One leg of the way of a frame, as the router at its beginning reports it."""

    name: str  # of the router at its beginning
    nickname: str
    next_name: str  # of the one at its end; "" where it knows no way on
    next_nickname: str
    way: str  # direct | relayed | none | silent: it did not answer
    rtt_ms: float | None  # as its probes measure it
    mtu: int  # largest inner IP packet
    cost: int  # class, 0 best to 3


@dataclass(slots=True, frozen=True, kw_only=True)
class TraceView:
    """The way of a frame from this host to what was asked for, in the order in which the frame takes it."""

    target: str
    name: str  # of the router that delivers it
    nickname: str
    mac: str  # "" where a host was named
    verdict: str  # what this host decides about frames for it
    flow: str  # whether such frames have passed lately
    path: PathView | None  # None: it is this host
    legs: tuple[LegView, ...]
    rtt_ms: float | None  # end to end, measured now
