"""Whom to dial, when, and what to say about it in `status connections`. Sans-IO.

Two kinds of wishes: *targets*, typed by the user (resolved anew at every dial, so that a changed A record is followed; several
A records are several addresses), and *wanted hosts* (discovery: the overlay's choice, with the endpoints of their records,
observed ones first; one endpoint of a host at a time). Each wish becomes addresses, each address is dialled with backoff until
a link with its host is up.

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
from meshd.gossip.targets import Backoff, Target, parse_target
from meshd.ids import Endpoint, HostId, LinkId

__all__ = [
    "MAX_ADDRESSES",
    "MAX_DIALS",
    "MAX_TARGETS",
    "Close",
    "Connection",
    "Connector",
    "Dial",
    "Request",
    "Resolve",
]

MAX_TARGETS = 256
MAX_ADDRESSES = 4096
MAX_RESOLVED = 16  # addresses taken of one name
MAX_DIALS = 16  # at a time
SIMULTANEOUS = 10.0  # links of one pair that come up within this time are weighed by ids
STABLE = 60.0  # a link that lasted this long is dialled again without backoff
YIELD_TIME = 0.5  # the higher id lets the lower one dial first


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
    """A second link with the same host: end it (with LEAVE)."""

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
    fresh: bool = False  # resolved, and not dialled since
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
        self._addresses: dict[Endpoint, _Address] = {}
        self._links: dict[LinkId, _Link] = {}
        self._alive: set[HostId] = set()
        self._own: frozenset[Endpoint] = frozenset()
        self._closes: list[Close] = []

    # wishes

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self._targets)

    def connect(self, texts: Sequence[str], now: float, *, replace: bool = False) -> None:
        """Add targets, or begin again at once with those there are. `replace` drops the others. All or nothing: raises UserError."""
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
        for host, endpoints in self._wanted.items():
            for endpoint in endpoints:
                known = endpoint in self._addresses
                entry = self._address(endpoint, now + (YIELD_TIME if self._me > host else 0.0))
                if entry is not None and (not known or entry.host is None):
                    entry.host = host
        self._sweep()

    def set_own_endpoints(self, endpoints: frozenset[Endpoint]) -> None:
        """What this host listens on: never dialled."""
        self._own = endpoints
        for entry in self._addresses.values():
            if entry.endpoint in endpoints:
                self._never(entry)

    # requests

    def poll(self, now: float) -> list[Request]:
        requests: list[Request] = list(self._closes)
        self._closes.clear()
        for target in self._targets.values():
            if self._must_resolve(target, now):
                target.resolving = True
                requests.append(Resolve(target.target))
        room = MAX_DIALS - sum(entry.phase is _Phase.DIALLING for entry in self._addresses.values())
        dialled_hosts = {entry.host for entry in self._addresses.values() if entry.phase is _Phase.DIALLING}
        stale = {e for t in self._targets.values() if t.target.numeric is None and not t.fresh for e in t.endpoints}
        for entry in self._addresses.values():
            if room <= 0:
                break
            if not self._is_due(entry, now) or (entry.host is not None and entry.host in dialled_hosts):
                continue
            if entry.endpoint in stale and entry.host not in self._wanted:
                continue  # its name is looked up first
            entry.phase = _Phase.DIALLING
            dialled_hosts.add(entry.host)
            requests.append(Dial(entry.endpoint, entry.host, entry.bootstrap))
            room -= 1
        for target in self._targets.values():
            if not any(self._due_at(endpoint, now) for endpoint in target.endpoints):
                target.fresh = False
        return requests

    def next_deadline(self) -> float | None:
        deadlines = [
            e.retry_at for e in self._addresses.values() if e.phase is _Phase.WAITING and not self._linked(e.host)
        ]
        deadlines += [
            t.resolve_at
            for t in self._targets.values()
            if t.target.numeric is None and not t.endpoints and not t.resolving
        ]
        return min(deadlines, default=None)

    def _must_resolve(self, entry: _Target, now: float) -> bool:
        if entry.target.numeric is not None or entry.resolving or entry.fresh or now < entry.resolve_at:
            return False
        return not entry.endpoints or any(self._due_at(endpoint, now) for endpoint in entry.endpoints)

    def _due_at(self, endpoint: Endpoint, now: float) -> bool:
        entry = self._addresses.get(endpoint)
        return entry is not None and self._is_due(entry, now)

    def _is_due(self, entry: _Address, now: float) -> bool:
        return entry.phase is _Phase.WAITING and now >= entry.retry_at and not self._linked(entry.host)

    def _linked(self, host: HostId | None) -> bool:
        return host is not None and any(link.host == host for link in self._links.values())

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
        entry.fresh = True
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
            self._failed(entry, error, now)

    def link_ready(self, link: LinkId, host: HostId, now: float) -> None:
        """Authenticated. A second link of one pair may come back as Close from the next `poll`."""
        held = self._links[link]
        held.host, held.ready_at = host, now
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
        # A key that led nowhere may be that of another host's life at this address, or ours is not known there yet: ask by XX.
        entry.bootstrap = held.host is None and not entry.bootstrap
        self._failed(entry, text, now)
        self._sweep()

    def path_alive(self, host: HostId, alive: bool) -> None:
        """The data path with a host is, or is no longer, alive both ways: its links are established, or pending."""
        if alive:
            self._alive.add(host)
        else:
            self._alive.discard(host)

    # addresses

    def _address(self, endpoint: Endpoint, retry_at: float) -> _Address | None:
        entry = self._addresses.get(endpoint)
        if entry is None and len(self._addresses) < MAX_ADDRESSES:
            entry = self._addresses[endpoint] = _Address(endpoint, retry_at)
            if endpoint in self._own:
                self._never(entry)
        return entry

    def _begin_again(self, entry: _Address | None, now: float) -> None:
        if entry is not None and entry.phase is _Phase.WAITING:
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
        wished.update(endpoint for endpoints in self._wanted.values() for endpoint in endpoints)
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
        for entry in self._addresses.values():
            if entry.phase is not _Phase.UP and not self._linked(entry.host):
                rows.append(_row(str(entry.endpoint), entry.phase, entry.error, entry.retry_at - now))
        for target in self._targets.values():
            if target.error and not target.endpoints:
                rows.append(_row(target.target.text, _Phase.WAITING, target.error, target.resolve_at - now))
        return rows


def _row(address: str, phase: _Phase, error: str, wait: float) -> Connection:
    if phase is _Phase.NEVER:
        return Connection(address, True, "failed", f"{error}, retry: never")
    if not error:
        return Connection(address, True, "connecting", "")
    if phase is _Phase.DIALLING:
        return Connection(address, True, "retrying", error)
    return Connection(address, True, "retrying", f"{error}, retry: in {max(0.0, wait):.0f} s")
