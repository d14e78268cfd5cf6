"""Which groups this host's containers have joined: heard from their reports, asked for again and again, forgotten in silence.

    report ──► member for MEMBER_TIME          leave ──► asked for this group; member for LEAVE_TIME more, unless reported again

The router is the querier of its own bridge and of nothing else: its questions are written to the frame port and never enter the
mesh, so it need not be elected, nothing depends on a querier in a container, and a container that dies without a word is
forgotten. It is asked in here and not by the kernel's bridge, whose MLD questions need an IPv6 address of the host on the bridge,
which must not have one, and which other ways to capture (pcap) do not have.

More than MAX_GROUPS groups, a multicast router among the containers, or the first SETTLE_TIME seconds: this host wants everything.
So what is not known costs bandwidth, never a frame.
"""

from __future__ import annotations

from meshd.forward.groups import Wanted, group_mac, is_joinable
from meshd.forward.membership import Heard, query4, query6
from meshd.ids import Mac

__all__ = [
    "LEAVE_TIME",
    "MAX_GROUPS",
    "MEMBER_TIME",
    "QUERY_INTERVAL",
    "QUERY_RESPONSE",
    "ROUTER_TIME",
    "SETTLE_TIME",
    "Snooper",
]

MAX_GROUPS = 256  # of one host, announced by name
QUERY_INTERVAL = 30.0
QUERY_RESPONSE = 2.0  # seconds that containers spread their answers over
MEMBER_TIME = 2 * QUERY_INTERVAL + QUERY_RESPONSE + 3.0  # one lost answer does no harm (RFC 9776, 8.4)
LEAVE_RESPONSE = 1.0
LEAVE_TIME = 2.0  # RFC 9776, 8.8 and 8.9
ROUTER_TIME = 260.0  # RFC 4286, 2.1: other querier present
STARTUP = (0.0, 2.5)  # an interface that has just come up may miss the first question
SETTLE_TIME = 5.0


class Snooper:
    """`somebody`: whether there is anybody to ask; told by the owner. All times are monotonic seconds."""

    def __init__(self, mac: Mac, now: float) -> None:
        self._mac = mac
        self._groups: dict[bytes, float] = {}  # until when
        self._asked: dict[bytes, float] = {}  # groups left, until when they are asked for no more
        self._everything_until = now + SETTLE_TIME
        self._settled_at = now + SETTLE_TIME
        self._queries: list[float] = [now + after for after in STARTUP]
        self._somebody = False

    def heard(self, heard: Heard, now: float) -> None:
        """A report, leave or question was captured here."""
        if heard.router:
            self._everything_until = max(self._everything_until, now + ROUTER_TIME)
        for group in heard.joined:
            self._joined(group, now)
        for group in heard.left:
            if self._groups.get(group, now) > now + LEAVE_TIME:
                self._groups[group] = now + LEAVE_TIME
                self._asked[group] = now

    def _joined(self, group: bytes, now: float) -> None:
        if not is_joinable(group_mac(group)):
            return  # everybody gets it anyhow
        if group not in self._groups and len(self._groups) >= MAX_GROUPS:
            self._everything_until = max(self._everything_until, now + MEMBER_TIME)
            return
        self._groups[group] = now + MEMBER_TIME

    def ask_soon(self, now: float) -> None:
        """A container was plugged in: it may have joined before we listened."""
        self._queries = sorted({*self._queries, *(now + after for after in STARTUP)})[: 2 * len(STARTUP)]

    def set_somebody(self, somebody: bool, now: float) -> None:
        if somebody and not self._somebody:
            self.ask_soon(now)
        self._somebody = somebody

    def wanted(self, now: float) -> Wanted:
        return Wanted(everything=now < self._everything_until, groups=frozenset(self._groups))

    @property
    def settled_at(self) -> float:
        """Before, there is nothing to announce: a host that says nothing gets everything."""
        return self._settled_at

    def next_deadline(self) -> float:
        due = [self._settled_at, *self._groups.values(), *self._asked.values(), *self._queries]
        if self._everything_until > float("-inf"):
            due.append(self._everything_until)
        return min(due)

    def handle_timer(self, now: float) -> list[bytes]:
        """Forget what nobody reported again; the questions to write to the frame port."""
        if now >= self._settled_at:
            self._settled_at = float("inf")
        if now >= self._everything_until:
            self._everything_until = float("-inf")
        for group in [group for group, until in self._groups.items() if now >= until]:
            del self._groups[group]
        questions = [
            (query4 if len(group) == 4 else query6)(self._mac, LEAVE_RESPONSE, QUERY_INTERVAL, group)
            for group, when in self._asked.items()
            if now >= when
        ]
        self._asked = {group: when for group, when in self._asked.items() if now < when}
        if self._queries and now >= self._queries[0]:
            self._queries = [when for when in self._queries if now < when] or [now + QUERY_INTERVAL]
            if self._somebody:
                questions += [query(self._mac, QUERY_RESPONSE, QUERY_INTERVAL) for query in (query4, query6)]
        return questions
