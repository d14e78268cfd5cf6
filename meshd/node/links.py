"""Control links of this node: TCP streams on one side, gossip on the other, the connector's wishes in between.

    connector wish → DialLink → link_connected → ControlLink (handshake) → LinkReady → gossip.link_up → HELLO, RECORDS …
    link_accepted ──────────────────────────────┘

A link that fails is told to the connector, which dials again; one that was refused because of another mesh key is remembered for
a while, so that `status connections` shows it on both sides.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from meshd.crypto.handshake import Context
from meshd.crypto.liveness import LivenessTable
from meshd.crypto.noise import Entropy
from meshd.crypto.wire import Liveness
from meshd.drops import DropCounters, DropReason
from meshd.gossip.connector import Connector
from meshd.gossip.gossip import Gossip
from meshd.gossip.link import ControlLink
from meshd.gossip.linktypes import LinkClosed, LinkConfig, LinkEvent, LinkFailed, LinkReady, MessageReceived
from meshd.gossip.messages import Hello
from meshd.gossip.requests import Close, Connection, Dial
from meshd.gossip.requests import Resolve as ResolveRequest
from meshd.gossip.targets import Target
from meshd.ids import Endpoint, HostId, LinkId
from meshd.node.directory import Directory
from meshd.node.halfopen import who_gives_way
from meshd.node.outputs import CloseLink, DialLink, Output, Resolve, SendLink

__all__ = ["LinkEvents", "LinkTable"]

_log = logging.getLogger("meshd.links")

MAX_HALF_OPEN = 64  # accepted, handshake not finished
MAX_STRANGERS = 16  # addresses that came with another mesh key, shown for STRANGER_S
STRANGER_S = 60.0
LOG_EVERY_S = 10.0
OTHER_KEY_HINT = "`meshd key set` there moves it to this mesh"


class LinkEvents(Protocol):
    """What the table tells its owner."""

    def neighbour_up(self, host: HostId, now: float) -> None: ...

    def neighbour_lost(self, host: HostId, left: bool, now: float) -> None:
        """The last link with this host ended; `left`: it said so."""
        ...

    def dial_failed(self, endpoint: Endpoint, now: float) -> None:
        """TCP does not answer there."""
        ...

    def seen_at(self, neighbour: HostId, address: str, now: float) -> None: ...


@dataclass(slots=True)
class _Held:
    control: ControlLink
    endpoint: Endpoint
    outbound: bool
    host: HostId | None = None
    greeted: bool = False  # its HELLO was here


class LinkTable:
    def __init__(
        self,
        *,
        context: Context,
        entropy: Entropy,
        rng: random.Random,
        liveness: Callable[[], Liveness],
        connector: Connector,
        gossip: Gossip,
        directory: Directory,
        drops: DropCounters,
        rekey_s: float,
    ) -> None:
        self.connector = connector
        self._gossip = gossip
        self._directory = directory
        self._events: LinkEvents
        self._drops = drops
        self._numbers = itertools.count(1)
        self._dials: dict[LinkId, Dial] = {}
        self._links: dict[LinkId, _Held] = {}
        self._strangers: dict[str, float] = {}  # address → when it was last here
        self._targets: dict[str, Target] = {}  # names that are being looked up
        self._livenesses = LivenessTable(entropy)
        self._logged = float("-inf")
        self._outputs: list[Output] = []
        self._config = LinkConfig(
            context=context,
            lookup=directory.identity_of_static,
            liveness=liveness,
            authorize=self._authorize,
            index=lambda: int.from_bytes(entropy(4), "little") or 1,
            rng=rng,
            drops=drops,
            rekey_time=rekey_s,
        )

    def bind(self, events: LinkEvents) -> None:
        """Who is told: made after this table, which it asks."""
        self._events = events

    # ── the driver's reports

    def accepted(self, source: Endpoint, now: float) -> LinkId:
        half_open = [
            (link, held.endpoint) for link, held in self._links.items() if held.host is None and not held.outbound
        ]
        if len(half_open) >= MAX_HALF_OPEN:
            self._drops.add(DropReason.LINK_LIMIT)
            gone = who_gives_way(half_open)
            self._remove(gone, self._links[gone], "too many in their handshake", now, True)
        link = LinkId(next(self._numbers))
        control = ControlLink(self._config, address=str(source), dial=False, now=now)
        self._links[link] = _Held(control, source, outbound=False)
        self.connector.link_accepted(link, source, now)
        return link

    def connected(self, link: LinkId, now: float) -> None:
        dial = self._dials.pop(link, None)
        if dial is None:
            self._outputs.append(CloseLink(link))
            return
        host = self._directory.hosts.get(dial.host) if dial.host is not None and not dial.bootstrap else None
        static = host.x25519 if host is not None else None
        control = ControlLink(self._config, address=str(dial.endpoint), dial=True, now=now, remote_static=static)
        self._links[link] = _Held(control, dial.endpoint, outbound=True)
        self.connector.link_dialled(link, dial.endpoint, now)
        self._drain(link, now)

    def failed(self, link: LinkId, error: str, now: float) -> None:
        dial = self._dials.pop(link, None)
        if dial is not None:
            self.connector.dial_failed(dial.endpoint, error, now)
            self._events.dial_failed(dial.endpoint, now)

    def received(self, link: LinkId, data: bytes, now: float) -> None:
        held = self._links.get(link)
        if held is not None:
            held.control.receive(data, now)
            self._drain(link, now)

    def lost(self, link: LinkId, error: str, now: float) -> None:
        """The stream ended. An orderly end and a broken one look alike to the link; the text says what TCP said."""
        held = self._links.get(link)
        if held is not None:
            held.control.receive(b"", now)
            self._drain(link, now, stream_open=False)

    def resolved(self, target: str, addresses: tuple[str, ...], error: str, now: float) -> None:
        known = self._targets.pop(target, None)
        if known is not None:
            endpoints = [Endpoint(address, known.port) for address in addresses]
            self.connector.resolved(known, endpoints, now, error=error)

    # ── one link

    def _drain(self, link: LinkId, now: float, *, stream_open: bool = True) -> None:
        """Take what a link has to say: events first, then bytes."""
        held = self._links.get(link)
        if held is None:
            return
        while (event := held.control.next_event()) is not None:
            self._take(link, held, event, now, stream_open)
        if stream_open and (data := held.control.data_to_send()):
            self._outputs.append(SendLink(link, data))
        if held.control.closed() and link in self._links:
            self._remove(link, held, "", now, stream_open)

    def _take(self, link: LinkId, held: _Held, event: LinkEvent, now: float, stream_open: bool) -> None:
        match event:
            case LinkReady(host=host):
                held.host = host
                self.connector.link_ready(link, host, now)
                self._gossip.link_up(link, host, now, observed=held.endpoint.host)
                self._events.neighbour_up(host, now)
            case MessageReceived(message=message):
                if isinstance(message, Hello) and held.host is not None and not held.greeted:
                    held.greeted = True
                    self._events.seen_at(held.host, message.observed, now)
                self._gossip.receive(link, message, now)
            case LinkFailed():
                self._note_failure(held, event, now)
                self._remove(link, held, event.text, now, stream_open, ourself=event.ourself)
            case LinkClosed(text=text, left=left):
                self._remove(link, held, text, now, stream_open, left=left)

    def _remove(
        self,
        link: LinkId,
        held: _Held,
        text: str,
        now: float,
        stream_open: bool,
        *,
        ourself: bool = False,
        left: bool = False,
    ) -> None:
        if self._links.pop(link, None) is None:
            return
        if stream_open:
            if data := held.control.data_to_send():
                self._outputs.append(SendLink(link, data))
            self._outputs.append(CloseLink(link))
        self._gossip.link_down(link, now)
        self.connector.link_down(link, text, now, ourself=ourself)
        if held.host is not None and not self.linked(held.host):
            self._events.neighbour_lost(held.host, left, now)

    def _note_failure(self, held: _Held, event: LinkFailed, now: float) -> None:
        if event.other_mesh_key:
            address = held.endpoint.host
            self._strangers.pop(address, None)
            self._strangers[address] = now
            if len(self._strangers) > MAX_STRANGERS:
                del self._strangers[next(iter(self._strangers))]
            text = f"{event.text}; {OTHER_KEY_HINT}"
        else:
            text = event.text if str(held.endpoint) in event.text else f"{held.endpoint}: {event.text}"
        if now >= self._logged + LOG_EVERY_S:
            self._logged = now
            _log.warning("%s", text)

    def _authorize(self, static: bytes, liveness: Liveness) -> DropReason | None:
        """A type 1 on a link: from a host that we know, and not a copy of an earlier one."""
        host = self._directory.host_of_static(static)
        if host is None:
            return DropReason.UNKNOWN_PEER
        # No challenge here, hence no time: a link whose IK is refused is tried again with XX, which needs no liveness.
        return None if self._livenesses.accept(host, liveness, 0.0) else DropReason.STALE_HANDSHAKE

    # ── what the owner asks

    def linked(self, host: HostId) -> bool:
        return any(held.host == host for held in self._links.values())

    def linked_hosts(self) -> set[HostId]:
        return {held.host for held in self._links.values() if held.host is not None}

    def link_of(self, host: HostId) -> tuple[Endpoint, bool] | None:
        """Where a link with this host goes to or came from, and whether we dialled it."""
        return next(((held.endpoint, held.outbound) for held in self._links.values() if held.host == host), None)

    def close_all(self, now: float) -> None:
        """We are going: every link says so."""
        for link, held in list(self._links.items()):
            held.control.close()
            if data := held.control.data_to_send():
                self._outputs.append(SendLink(link, data))
            self._outputs.append(CloseLink(link))
        self._links.clear()

    def strangers(self, now: float) -> list[Connection]:
        """Hosts with another mesh key that dialled us lately."""
        self._strangers = {address: when for address, when in self._strangers.items() if now < when + STRANGER_S}
        text = f"tried with another mesh key; {OTHER_KEY_HINT}"
        return [Connection(address, False, "failed", text) for address in self._strangers]

    # ── time

    def next_deadline(self) -> float | None:
        deadlines = [self.connector.next_deadline(), *(held.control.next_deadline() for held in self._links.values())]
        return min((when for when in deadlines if when is not None), default=None)

    def handle_timer(self, now: float) -> None:
        for link, held in list(self._links.items()):
            held.control.handle_timer(now)
            self._drain(link, now)

    def poll(self, now: float, buffered: Callable[[LinkId], int]) -> list[Output]:
        """What gossip and connector want sent, dialled, looked up, closed."""
        waiting = {link: buffered(link) for link in self._links}
        for link, message in self._gossip.poll(now, waiting):
            held = self._links.get(link)
            if held is not None:
                held.control.send_message(message)
        for link in list(self._links):
            self._drain(link, now)
        for request in self.connector.poll(now):
            match request:
                case Dial(endpoint=endpoint):
                    link = LinkId(next(self._numbers))
                    self._dials[link] = request
                    self._outputs.append(DialLink(link, endpoint))
                case ResolveRequest(target=target):
                    self._targets[target.text] = target
                    self._outputs.append(Resolve(target.text, target.host))
                case Close(link=link):
                    surplus = self._links.get(link)
                    if (
                        surplus is not None
                    ):  # without LEAVE: where the other link is not ready yet, it would mean that we go
                        self._remove(link, surplus, "a second link with the same host", now, True)
        outputs, self._outputs = self._outputs, []
        return outputs
