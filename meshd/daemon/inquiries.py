"""`ping` and `trace`: questions to other routers, put together into what a person wants to know.

    ping   is the router there that has this address, container or name, how quickly does it answer, and over which path?
    trace  what happens to a frame for it: decision, flow, session, path, and each leg as the router at its beginning sees it

The node asks (`Node.ask`) and the driver brings the answers; here they meet whoever waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshd.errors import UserError
from meshd.forward.query import PathReport, Way
from meshd.ids import HostId, SegmentId, ShortId, format_mac, short_id
from meshd.node import Node
from meshd.node.lookup import Found, find
from meshd.node.queries import Answer
from meshd.node.view import SEALED_OVERHEAD, name_of, path_view
from meshd.views import LegView, PingView, TraceView

__all__ = ["MAX_LEGS", "Inquiries"]

MAX_LEGS = 16  # as long as a flood may travel
MAX_SOURCES = 4  # shown
SEGMENT = SegmentId(0)


class Inquiries:
    """`wake` lets the node act on what it was asked. Everything on the loop's thread."""

    def __init__(self, node: Node, wake: Callable[[], None], clock: Callable[[], float]) -> None:
        self._node = node
        self._wake = wake
        self._clock = clock
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    def answered(self, answer: Answer) -> None:
        future = self._waiting.pop(answer.token, None)
        if future is not None and not future.done():
            future.set_result(answer)

    async def ping(self, word: str) -> PingView:
        """Raises UserError for a word that names nothing in the mesh."""
        found = find(word, self._node.directory, self._node.living())
        name, nickname = name_of(self._node, found.host)
        if found.host == self._node.host_id:
            return PingView(target=found.text, name=name, nickname=nickname, rtt_ms=0.0, path=None)
        rtt_ms = await self._round_trip(found.host)
        path = path_view(self._node, found.host, self._clock())
        return PingView(target=found.text, name=name, nickname=nickname, rtt_ms=rtt_ms, path=path)

    async def trace(self, word: str) -> TraceView:
        """Raises UserError for a word that names nothing in the mesh."""
        found = find(word, self._node.directory, self._node.living())
        own = found.host == self._node.host_id
        rtt_ms = 0.0 if own else await self._round_trip(found.host)
        legs = () if own else await self._legs(found.host)
        name, nickname = name_of(self._node, found.host)
        return TraceView(
            target=found.text,
            name=name,
            nickname=nickname,
            mac=format_mac(found.mac) if found.mac is not None else "",
            verdict=self._verdict(found),
            flow=self._flow(found),
            path=None if own else path_view(self._node, found.host, self._clock()),
            legs=legs,
            rtt_ms=rtt_ms,
        )

    # ── asking

    async def _ask(self, host: HostId, destination: ShortId) -> Answer:
        token = self._node.ask(host, destination, self._clock())
        if token is None:
            raise UserError("too many questions are under way", hint="try again in a second")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        self._wake()
        try:
            return await future
        finally:
            self._waiting.pop(token, None)

    async def _round_trip(self, host: HostId) -> float | None:
        rtt = (await self._ask(host, short_id(host))).rtt_s
        return None if rtt is None else round(rtt * 1000, 3)

    async def _legs(self, destination: HostId) -> tuple[LegView, ...]:
        """From this host on, each one asked for its own leg, until one has the destination as its next hop."""
        goal = short_id(destination)
        here = self._node.host_id
        report: PathReport | None = self._node.way_to(goal)
        legs = [self._leg(here, report)]
        seen = {here}
        while report is not None and report.way is Way.RELAYED and len(legs) < MAX_LEGS:
            hop = self._node.directory.host_of_short(report.hop)
            if hop is None or hop in seen:
                break
            seen.add(hop)
            report = (await self._ask(hop, goal)).report
            legs.append(self._leg(hop, report))
        return tuple(legs)

    def _leg(self, host: HostId, report: PathReport | None) -> LegView:
        name, nickname = name_of(self._node, host)
        if report is None:
            return LegView(
                name=name, nickname=nickname, next_name="", next_nickname="", way="silent", rtt_ms=None, mtu=0, cost=0
            )
        hop = self._node.directory.host_of_short(report.hop)
        next_name, next_nickname = name_of(self._node, hop) if hop is not None else ("", "")
        return LegView(
            name=name,
            nickname=nickname,
            next_name=next_name,
            next_nickname=next_nickname,
            way=report.way.name.lower(),
            rtt_ms=None if report.rtt_us is None else report.rtt_us / 1000,
            mtu=max(0, report.max_datagram - SEALED_OVERHEAD),
            cost=report.cost,
        )

    # ── what this host knows itself

    def _verdict(self, found: Found) -> str:
        fdb = self._node.directory.fdb
        where = self._node.directory.label_of(found.host)
        if found.mac is not None and fdb.is_frozen(SEGMENT, found.mac):
            return f"unicast to {where}; the MAC is frozen there, since it moved too often"
        if found.host == self._node.host_id:
            return "it is on this host: the bridge delivers it, nothing enters the mesh"
        if found.host not in self._node.reach.alive:
            return f"unknown: {where} is not alive, what it has is hidden"
        return f"unicast to {where}"

    def _flow(self, found: Found) -> str:
        if found.mac is None:
            return ""
        flows = [flow for flow in self._node.engine.flows(found.mac) if flow.outbound and flow.destination == found.mac]
        if not flows:
            return "no frame for it has been captured lately"
        frames, newest = sum(flow.frames for flow in flows), max(flow.last_used for flow in flows)
        sources = ", ".join(sorted(format_mac(flow.source) for flow in flows)[:MAX_SOURCES])
        return f"{frames} frames from {sources}, the last one {max(0.0, self._clock() - newest):.1f} s ago"
