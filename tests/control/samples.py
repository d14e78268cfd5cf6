"""Views of an invented router: the hosts and connections of Weave's documentation, so that the listings can be compared."""

from __future__ import annotations

from meshd.views import (
    AttachmentView,
    ConnectionView,
    GossipView,
    LegView,
    LinkView,
    LoopView,
    MacView,
    NodeView,
    PathView,
    PeerView,
    PingView,
    RouterView,
    RouteView,
    TraceView,
)

HOST1, HOST2, HOST3 = "4a:0f:f6:ec:1c:93", "7e:21:4a:70:2f:45", "7e:ae:cd:d5:23:8d"
BRIDGE_MAC = "06:11:22:33:44:55"
CONTAINER_ID = "5e2b3c4d5e6f" + "0" * 52
OTHER_ID = "5e99aabbccdd" + "1" * 52


def link(name: str, nickname: str, address: str, *, outbound: bool, established: bool = True) -> LinkView:
    return LinkView(name=name, nickname=nickname, address=address, outbound=outbound, established=established)


CONNECTIONS = (
    ConnectionView(
        address="192.168.48.12:33866",
        outbound=False,
        state="established",
        info="encrypted   direct 7e:21:4a:70:2f:45(host2)",
        name=HOST2,
        nickname="host2",
        attributes={"encrypted": "true", "mtu": "1372"},
    ),
    ConnectionView(
        address="192.168.48.13:60773",
        outbound=False,
        state="pending",
        info="encrypted   direct",
        name=HOST3,
        nickname="host3",
    ),
    ConnectionView(
        address="192.168.48.14:6783",
        outbound=True,
        state="retrying",
        info="dial tcp4 192.168.48.14:6783: no route to host",
    ),
    ConnectionView(
        address="192.168.48.15:6783",
        outbound=True,
        state="failed",
        info="dial tcp4 192.168.48.15:6783: no route to host, retry: in 4s",
    ),
    ConnectionView(address="192.168.48.16:6783", outbound=True, state="connecting", info=""),
    ConnectionView(
        address="10.51.34.219:6783", outbound=True, state="failed", info="cannot connect to ourself, retry: never"
    ),
)

PEERS = (
    PeerView(
        name=HOST1,
        nickname="host1",
        host_id="4a0ff6ec1c93" + "00" * 10,
        version="0.1.0",
        epoch=7,
        reachable=True,
        links=(
            link(HOST2, "host2", "192.168.48.12:33866", outbound=False),
            link(HOST3, "host3", "192.168.48.13:60773", outbound=False, established=False),
        ),
    ),
    PeerView(
        name=HOST2,
        nickname="host2",
        host_id="7e214a702f45" + "00" * 10,
        version="0.1.0",
        epoch=1,
        reachable=True,
        links=(link(HOST1, "host1", "192.168.48.11:6783", outbound=True), link(HOST3, "host3", "", outbound=False)),
    ),
    PeerView(
        name=HOST3, nickname="host3", host_id="7eaecdd5238d" + "00" * 10, version="0.1.0", epoch=2, reachable=False
    ),
)

PATHS = (
    PathView(
        name=HOST2,
        nickname="host2",
        kind="direct",
        endpoint="192.168.48.12:6783",
        state="alive",
        reason="probes are answered",
        mtu=1372,
        measured=True,
        rtt_ms=0.4162,
        loss=0.0,
        since_s=75.04,
        session_age_s=12.26,
        frames_out=10,
        frames_in=9,
        bytes_out=1500,
        bytes_in=3_000_000,
    ),
    PathView(
        name=HOST3,
        nickname="host3",
        kind="direct",
        endpoint="",
        state="no session",
        reason="",
        mtu=1372,
        measured=True,
        rtt_ms=None,
        loss=0.25,
        since_s=3.0,
        session_age_s=None,
        frames_out=0,
        frames_in=0,
        bytes_out=0,
        bytes_in=0,
    ),
)

MACS = (
    MacView(
        mac="7e:00:00:00:00:02",
        name=HOST2,
        nickname="host2",
        kind="learned",
        local=False,
        label="",
        addresses=(),
        claim=3,
        state="frozen",
        last_seen_s=None,
    ),
    MacView(
        mac="9a:00:00:00:00:01",
        name=HOST1,
        nickname="host1",
        kind="attachment",
        local=True,
        label="web",
        addresses=("10.0.1.5/24", "10.0.2.5/24"),
        claim=1,
        state="",
        last_seen_s=0.44,
    ),
)

ATTACHMENTS = (
    AttachmentView(
        id=CONTAINER_ID,
        label=CONTAINER_ID[:12],
        name="web",
        mac="9a:00:00:00:00:01",
        addresses=("10.0.1.5/24", "10.0.2.5/24"),
        ifname="mesh0",
        host_ifname="vm-5e2b3c4d",
        port_security=True,
        drops={"router": 0, "dhcp": 0, "flood": 12, "spoofed": 3},
    ),
    AttachmentView(
        id=OTHER_ID,
        label=OTHER_ID[:12],
        name="a-long-container-name",
        mac="9a:00:00:00:00:02",
        addresses=(),
        ifname="mesh0",
        host_ifname="vm-5e99aabb",
    ),
)


def node_view(
    *,
    nickname: str = "host1",
    suite: str = "aes-256-gcm",
    discovery: bool = True,
    targets: tuple[str, ...] = ("192.168.48.12", "host3.example.com:6800"),
    peers: tuple[PeerView, ...] = PEERS,
    connections: tuple[ConnectionView, ...] = CONNECTIONS,
    paths: tuple[PathView, ...] = PATHS,
    macs: tuple[MacView, ...] = MACS,
    address_conflicts: tuple[str, ...] = (),
    notices: tuple[str, ...] = (),
    drops: dict[str, int] | None = None,
) -> NodeView:
    return NodeView(
        name=HOST1,
        nickname=nickname,
        host_id="4a0ff6ec1c93" + "00" * 10,
        mesh_id="0123456789abcdef0123456789abcdef",
        suite=suite,
        discovery=discovery,
        port=6783,
        protocol_min=1,
        protocol_max=1,
        targets=targets,
        peers=peers,
        connections=connections,
        paths=paths,
        macs=macs,
        unicast_routes=(RouteView(destination=HOST2, via=(HOST2,)), RouteView(destination=HOST3, via=())),
        broadcast_routes=(RouteView(destination=HOST1, via=(HOST2, HOST3)),),
        address_conflicts=address_conflicts,
        notices=notices,
        gossip=GossipView(hosts=3, records=12, bytes=3456, root_hash="abcd", epoch=7),
        drops={"replayed": 3, "bad_mac1": 12, "truncated": 0} if drops is None else drops,
        flows=5,
    )


def router_view(node: NodeView | None = None, *, attachments: tuple[AttachmentView, ...] = ATTACHMENTS) -> RouterView:
    return RouterView(
        version="0.1.0",
        pid=4242,
        uptime_s=3700.0,
        node=node or node_view(),
        engine="python",
        engine_reason="the only one of this version",
        capture="meshd-tap (via tap)",
        bridge="meshd",
        mtu=1372,
        offloads="tso, udp gso",
        attachments=attachments,
        loop=LoopView(lag_p99_ms=0.31, slow_callbacks=2),
        rss_mib=41.26,
    )


def alone() -> RouterView:
    """A router that has nobody and nothing."""
    node = node_view(targets=(), peers=(PEERS[2],), connections=(), paths=(), macs=(), drops={})
    return router_view(node, attachments=())


def ping_view(rtt_ms: float | None = 0.5) -> PingView:
    return PingView(target=f"{HOST2}(host2)", name=HOST2, nickname="host2", rtt_ms=rtt_ms, path=PATHS[0])


def trace_view() -> TraceView:
    """From host1 over host3 to host2."""
    legs = (
        LegView(
            name=HOST1,
            nickname="host1",
            next_name=HOST3,
            next_nickname="host3",
            way="relayed",
            rtt_ms=0.4,
            mtu=1372,
            cost=0,
        ),
        LegView(
            name=HOST3,
            nickname="host3",
            next_name=HOST2,
            next_nickname="host2",
            way="direct",
            rtt_ms=None,
            mtu=1424,
            cost=1,
        ),
    )
    return TraceView(
        target=f"10.0.1.5 of container web on {HOST2}(host2)",
        name=HOST2,
        nickname="host2",
        mac="7e:00:00:00:00:02",
        verdict=f"unicast to {HOST2}(host2)",
        flow="no frame for it has been captured lately",
        path=PATHS[0],
        legs=legs,
        rtt_ms=0.9,
    )
