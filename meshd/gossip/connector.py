"""Whom to dial, when, and what to say about it in `status connections`. Sans-IO.

Three kinds of wishes: *targets*, typed by the user (resolved anew at every dial, so that a changed A record is followed; several
A records are several addresses), *wanted hosts* (discovery: the overlay's choice, with the endpoints of their records,
observed ones first; one endpoint of a host at a time), and *remembered hosts* (of a former life of this router: until the first
link is up, for then the records tell). Each wish becomes addresses, each address is dialled with backoff until a link with its
host is up.

    (new) ──poll: Dial──► connecting ──link_ready──► pending ──path_alive──► established
              ▲               │ dial_failed, link_down      │ link_down
              └── retrying ◄──┴────────────────────────────┘           failed: ourself, never dialled again

Of two links of one pair that came up at about the same time, the one dialled by the lower id stays; both ends see both and come
to the same end. In every other case only the dialler of the newer link may close it: the acceptor cannot know that the older
one is alive on the other side, for the other host may have been restarted.

The shell carries out `poll`'s requests and reports back: `resolved`, `link_dialled`/`dial_failed`, `link_accepted`,
`link_ready`, `link_down`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from meshd.errors import UserError
from meshd.gossip.linktypes import OURSELF
from meshd.gossip.requests import Close, Connection, Dial, Request, Resolve, waiting_row
from meshd.gossip.targets import Backoff, Target, parse_target
from meshd.ids import Endpoint, HostId, LinkId

__all__ = ["MAX_ADDRESSES", "MAX_DIALS", "MAX_RESOLVED", "MAX_TARGETS", "Connector"]

MAX_TARGETS = 256
MAX_ADDRESSES = 4096
MAX_RESOLVED = 16  # addresses taken of one name
MAX_DIALS = 16  # at a time
SIMULTANEOUS = 10.0  # links of one pair that come up within this time are weighed by ids
STABLE = 1.0  # a link that lasted this long is dialled again without backoff
BOOTSTRAP_PAUSE = 0.1
FRESH_TIME = 5.0  # a name that was looked up this long ago may be dialled
YIELD_TIME = 0.5  # the higher id lets the lower one dial first


class _Phase(enum.Enum):
    WAITING = enum.auto()
    DIALLING = enum.auto()
    UP = enum.auto()
    NEVER = enum.auto()


@dataclass(slots=True)
class _Address:
    endpoint: Endpoint
    retry_at: float
    host: HostId | None = None  # who is expected, or was found, there
    phase: _Phase = _Phase.WAITING
    error: str = ""
    bootstrap: bool = False
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(slots=True)
class _Target:
    target: Target
    resolve_at: float
    endpoints: tuple[Endpoint, ...] = ()
    resolving: bool = False
    fresh_until: float = float("-inf")  # looked up so lately, and not dialled since, that it may be dialled
    error: str = ""
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(slots=True)
class _Link:
    endpoint: Endpoint
    outbound: bool
    host: HostId | None = None
    ready_at: float = 0.0


class Connector:
    def __init__(self, *, me: HostId, rng: Random, discovery: bool = True, default_port: int = 6783) -> None:
        self._me = me
        self._rng = rng
        self._discovery = discovery
        self._default_port = default_port
        self._targets: dict[str, _Target] = {}
        self._wanted: dict[HostId, tuple[Endpoint, ...]] = {}
        self._remembered: dict[HostId, tuple[Endpoint, ...]] = {}
        self._addresses: dict[Endpoint, _Address] = {}
        self._links: dict[LinkId, _Link] = {}
        self._alive: set[HostId] = set()
        self._own: frozenset[Endpoint] = frozenset()
        self._up: dict[HostId, int] = {}  # host -> links that are ready
        self._closes: list[Close] = []

    # wishes

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self._targets)

    def connect(self, texts: Sequence[str], now: float, *, replace: bool = False) -> None:
        """Add targets, or try those there are at once; `replace` drops the others. All or nothing: raises UserError."""
        parsed = [parse_target(text, self._default_port) for text in texts]
        kept = () if replace else self._targets
        if len({*kept, *texts}) > MAX_TARGETS:
            raise UserError(f"more than {MAX_TARGETS} targets")
        if replace:
            self.forget([text for text in self._targets if text not in texts])
        for target in parsed:
            entry = self._targets.setdefault(target.text, _Target(target, now))
            entry.resolve_at = now
            entry.backoff.reset()
            if target.numeric is not None:
                entry.endpoints = (target.numeric,)
            for endpoint in entry.endpoints:
                self._begin_again(self._address(endpoint, now), now)

    def forget(self, texts: Sequence[str]) -> None:
        """Stop dialling; a link that is up stays. Raises UserError for what is no target."""
        for text in texts:
            if text not in self._targets:
                raise UserError(f"not a target: {text!r}", hint="`meshd status targets` lists them")
        for text in texts:
            self._targets.pop(text, None)
        self._sweep()

    def want(self, hosts: Mapping[HostId, Sequence[Endpoint]], now: float) -> None:
        """The hosts that discovery wants links with, and where they may be found, best first."""
        if not self._discovery:
            return
        self._wanted = {host: tuple(endpoints) for host, endpoints in hosts.items() if host != self._me}
        # Those with a link first: an address that several name, as behind one NAT, is dialled for one that has none.
        for host, endpoints in sorted(self._wanted.items(), key=lambda item: item[0] not in self._up):
            for endpoint in endpoints:
                known = endpoint in self._addresses
                entry = self._address(endpoint, now + (YIELD_TIME if self._me > host else 0.0))
                if entry is not None and (not known or entry.phase is _Phase.WAITING):
                    entry.host = host  # the record is newer than what was found there once
        self._sweep()

    def remember(self, hosts: Mapping[HostId, Sequence[Endpoint]], now: float) -> None:
        """Where hosts of the mesh were when this router last ran: with no target, it finds them again by these."""
        if not self._discovery:
            return
        self._remembered = {host: tuple(endpoints) for host, endpoints in hosts.items() if host != self._me}
        for host, endpoints in self._remembered.items():
            for endpoint in endpoints:
                entry = self._address(endpoint, now)
                if entry is not None and entry.host is None and entry.phase is _Phase.WAITING:
                    entry.host = host

    def set_own_endpoints(self, endpoints: frozenset[Endpoint]) -> None:
        """What this host listens on: never dialled."""
        former, self._own = self._own, endpoints
        for entry in self._addresses.values():
            if entry.endpoint in endpoints:
                self._never(entry)
            elif entry.endpoint in former and entry.phase is _Phase.NEVER:
                entry.phase, entry.error = _Phase.WAITING, ""

    # requests

    def poll(self, now: float) -> list[Request]:
        requests: list[Request] = list(self._closes)
        self._closes.clear()
        named_by = self._named()
        asked: dict[str, _Target] = {}
        dialling = self._dialling()
        for entry in self._addresses.values():
            at = self._due_at(entry, named_by, dialling)
            if at is None or at > now:
                continue
            named = named_by.get(entry.endpoint)
            if named is not None and now >= named.fresh_until:
                asked[named.target.text] = named
            elif len(dialling) < MAX_DIALS:
                entry.phase = _Phase.DIALLING
                dialling[entry.endpoint] = entry.host
                requests.append(Dial(entry.endpoint, entry.host, entry.bootstrap))
        for target in (*asked.values(), *self._unresolved()):
            if not target.resolving and now >= target.resolve_at:
                target.resolving = True
                requests.append(Resolve(target.target))
        for request in requests:
            if isinstance(request, Dial) and request.endpoint in named_by:
                named_by[request.endpoint].fresh_until = now
        return requests

    def next_deadline(self) -> float | None:
        deadlines = [target.resolve_at for target in self._unresolved() if not target.resolving]
        named_by, dialling = self._named(), self._dialling()
        if len(dialling) < MAX_DIALS:
            for entry in self._addresses.values():
                at = self._due_at(entry, named_by, dialling)
                if at is not None:
                    deadlines.append(at)
        return min(deadlines, default=None)

    def _due_at(
        self, entry: _Address, named_by: Mapping[Endpoint, _Target], dialling: Mapping[Endpoint, HostId | None]
    ) -> float | None:
        """When it is this address's turn to be dialled, or looked up first; None: not before something else was reported."""
        if entry.phase is not _Phase.WAITING:
            return None
        if entry.host is not None and (entry.host in self._up or entry.host in dialling.values()):
            return None
        named = named_by.get(entry.endpoint)
        if named is None:
            return entry.retry_at
        return None if named.resolving else max(entry.retry_at, named.resolve_at)

    def _dialling(self) -> dict[Endpoint, HostId | None]:
        return {e.endpoint: e.host for e in self._addresses.values() if e.phase is _Phase.DIALLING}

    def _named(self) -> dict[Endpoint, _Target]:
        """The addresses that only a name led to, and that name: it is looked up again before they are dialled again."""
        named = {
            endpoint: target
            for target in self._targets.values()
            if target.target.numeric is None
            for endpoint in target.endpoints
        }
        direct = {target.target.numeric for target in self._targets.values()}
        direct.update(endpoint for endpoints in self._wanted.values() for endpoint in endpoints)
        return {endpoint: target for endpoint, target in named.items() if endpoint not in direct}

    def _unresolved(self) -> list[_Target]:
        return [t for t in self._targets.values() if t.target.numeric is None and not t.endpoints]

    # reports

    def resolved(self, target: Target, endpoints: Sequence[Endpoint], now: float, *, error: str = "") -> None:
        """`endpoints` is empty, and `error` says why, when the name has no address."""
        entry = self._targets.get(target.text)
        if entry is None:
            return
        entry.resolving = False
        if not endpoints:
            entry.error = error or f"no address for {target.host}"
            entry.resolve_at = now + entry.backoff.next(self._rng)
            return
        entry.error = ""
        entry.backoff.reset()
        entry.endpoints = tuple(endpoints[:MAX_RESOLVED])
        entry.resolve_at = now
        entry.fresh_until = now + FRESH_TIME
        for endpoint in entry.endpoints:
            self._address(endpoint, now)
        self._sweep()

    def link_dialled(self, link: LinkId, endpoint: Endpoint, now: float) -> None:
        """The TCP connection of a Dial is open; its handshake begins."""
        self._links[link] = _Link(endpoint, outbound=True)

    def link_accepted(self, link: LinkId, endpoint: Endpoint, now: float) -> None:
        self._links[link] = _Link(endpoint, outbound=False)

    def dial_failed(self, endpoint: Endpoint, error: str, now: float) -> None:
        entry = self._addresses.get(endpoint)
        if entry is not None and entry.phase is _Phase.DIALLING:
            entry.bootstrap = False
            self._failed(entry, error, now)
            self._sweep()

    def link_ready(self, link: LinkId, host: HostId, now: float) -> None:
        """Authenticated. A second link of one pair may come back as Close from the next `poll`."""
        held = self._links[link]
        held.host, held.ready_at = host, now
        self._up[host] = self._up.get(host, 0) + 1
        self._remembered = {}
        entry = self._addresses.get(held.endpoint) if held.outbound else None
        if entry is not None:
            entry.host, entry.phase, entry.error, entry.bootstrap = host, _Phase.UP, "", False
        for other_id, other in self._links.items():
            if other_id != link and other.host == host:
                surplus = self._surplus(host, other_id, other, link, held)
                if surplus is not None:
                    self._closes.append(Close(surplus))

    def _surplus(self, host: HostId, old_id: LinkId, old: _Link, new_id: LinkId, new: _Link) -> LinkId | None:
        if old.outbound != new.outbound and new.ready_at - old.ready_at < SIMULTANEOUS:
            lower_dialled_new = new.outbound == (self._me < host)
            return old_id if lower_dialled_new else new_id
        return new_id if new.outbound else None

    def link_down(self, link: LinkId, text: str, now: float, *, ourself: bool = False) -> None:
        """A link ended, ready or not. `ourself`: it led back here."""
        held = self._links.pop(link, None)
        if held is not None and held.host is not None:
            self._up[held.host] -= 1
            if not self._up[held.host]:
                del self._up[held.host]
        if held is None or not held.outbound:
            return
        entry = self._addresses.get(held.endpoint)
        if entry is None or entry.phase not in (_Phase.DIALLING, _Phase.UP):
            return
        if ourself:
            self._never(entry)
            return
        lasted = held.host is not None and now - held.ready_at > STABLE
        if lasted:
            entry.backoff.reset()
        # A key that led nowhere may be that of another host's life at this address, or ours is not known there yet, as after its
        # restart: ask by XX, and soon.
        entry.bootstrap = held.host is None and not entry.bootstrap
        self._failed(entry, text, now)
        if entry.bootstrap and entry.host is not None:
            entry.retry_at = min(entry.retry_at, now + BOOTSTRAP_PAUSE)
        self._sweep()

    def path_alive(self, host: HostId, alive: bool, now: float) -> None:
        """The data path with a host is, or is no longer, alive both ways: its links are established, or pending.

        A path that comes alive before a link is a sign of life, as after a partition: the host is dialled at once.
        """
        if not alive:
            self._alive.discard(host)
        elif host not in self._alive:
            self._alive.add(host)
            for entry in self._addresses.values():
                if entry.host == host and host not in self._up:
                    self._begin_again(entry, now + (YIELD_TIME if self._me > host else 0.0))

    def expected(self) -> frozenset[HostId]:
        """The hosts found behind the targets, or expected at wished addresses: those that are dialled again when they are lost."""
        return frozenset(entry.host for entry in self._addresses.values() if entry.host is not None)

    # addresses

    def _address(self, endpoint: Endpoint, retry_at: float) -> _Address | None:
        entry = self._addresses.get(endpoint)
        if entry is None and len(self._addresses) < MAX_ADDRESSES:
            entry = self._addresses[endpoint] = _Address(endpoint, retry_at)
            if endpoint in self._own:
                self._never(entry)
        return entry

    def _begin_again(self, entry: _Address | None, now: float) -> None:
        if entry is not None and entry.phase in (_Phase.WAITING, _Phase.DIALLING):
            entry.backoff.reset()
            entry.retry_at = now

    def _failed(self, entry: _Address, error: str, now: float) -> None:
        entry.phase = _Phase.WAITING
        entry.error = error
        entry.retry_at = now + entry.backoff.next(self._rng)

    def _never(self, entry: _Address) -> None:
        entry.phase, entry.error = _Phase.NEVER, OURSELF

    def _sweep(self) -> None:
        """Forget the addresses that nobody wishes for any more, unless a dial or link is still under way."""
        wished = {endpoint for entry in self._targets.values() for endpoint in entry.endpoints}
        for hosts in (self._wanted, self._remembered):
            wished.update(endpoint for endpoints in hosts.values() for endpoint in endpoints)
        for endpoint, entry in list(self._addresses.items()):
            if endpoint not in wished and entry.phase in (_Phase.WAITING, _Phase.NEVER):
                del self._addresses[endpoint]

    # status

    def connections(self, now: float) -> list[Connection]:
        rows = [
            Connection(
                str(link.endpoint),
                link.outbound,
                "established" if link.host in self._alive else "pending",
                "",
                link.host,
            )
            for link in self._links.values()
            if link.host is not None
        ]
        rows += [
            waiting_row(
                str(entry.endpoint),
                entry.error,
                dialling=entry.phase is _Phase.DIALLING,
                wait=None if entry.phase is _Phase.NEVER else entry.retry_at - now,
            )
            for entry in self._addresses.values()
            if entry.phase is not _Phase.UP and entry.host not in self._up
        ]
        rows += [
            waiting_row(target.target.text, target.error, dialling=target.resolving, wait=target.resolve_at - now)
            for target in self._unresolved()
        ]
        return rows
