"""Endpoints of a peer beside the one in use: which of them leads to it, found out by probes under the session's keys.

Two reasons to ask: the path in use is dead (`search`: all known endpoints at once, and then in turn, one a second), or a probe of
the peer came from elsewhere (`offer`), as when a NAT on its way has given it another port. Probes are answered to where they came
from, so an echo (`on_echo`) proves that this endpoint leads to the holder of the keys, which a source address does not: it may be
forged, or a copy's. Nothing but probes goes there before.

What a stranger can make us send to a third party with a forged source is one echo and one probe for each probe of a peer that
he holds back and is first with: twice the bytes, where three times are the limit of RFC 9000 § 8.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from meshd.forward.control import Probe, encode_control
from meshd.ids import Endpoint

__all__ = ["FIRST_SEQ", "MAX_ASKED", "SEARCH_INTERVAL", "Candidates"]

SEARCH_INTERVAL = 1.0  # between two probes of a search
MAX_ASKED = 32  # probes that may still be answered
FIRST_SEQ = 0x8000_0000  # apart from the numbers of a path's own probes
_LAST_SEQ = 0xFFFF_FFFF


class Candidates:
    """Of one peer. `sent` in a probe is microseconds of our clock, as in those of a path."""

    def __init__(self) -> None:
        self._asked: OrderedDict[int, tuple[Endpoint, int]] = OrderedDict()  # sequence number → endpoint, sent
        self._now: list[Endpoint] = []  # offered
        self._next_seq = FIRST_SEQ
        self._search_at: float | None = None
        self._all = False  # the search begins
        self._turn = 0

    def offer(self, endpoint: Endpoint) -> None:
        """An authentic probe of the peer came from there: ask there once."""
        if len(self._now) < MAX_ASKED and endpoint not in self._now:
            self._now.append(endpoint)

    def search(self, wanted: bool, now: float) -> None:
        """Whether all known endpoints are to be tried."""
        if not wanted:
            self._search_at = None
        elif self._search_at is None:
            self._search_at, self._all = now, True

    def stop(self) -> None:
        """No keys: nothing can be asked, and no answer counts."""
        self._asked.clear()
        self._now.clear()
        self._search_at = None

    def next_deadline(self) -> float | None:
        return float("-inf") if self._now else self._search_at

    def poll(self, known: Sequence[Endpoint], now: float) -> list[tuple[Endpoint, bytes]]:
        """The probes to send now, each alone in its datagram. `known`: where the peer may be, but for the endpoint in use."""
        due, self._now = self._now, []
        if self._search_at is not None and now >= self._search_at:
            self._search_at = now + SEARCH_INTERVAL
            if self._all:
                due += known  # a host has an address for each of its bridges; the one that works may be the last
            elif known:
                due.append(known[self._turn % len(known)])
                self._turn += 1
            self._all = False
        return [(endpoint, self._probe(endpoint, now)) for endpoint in dict.fromkeys(due)]

    def on_echo(self, seq: int, sent_us: int) -> Endpoint | None:
        """The endpoint that this echo proves; None: it answers none of ours."""
        asked = self._asked.get(seq)
        if asked is None or asked[1] != sent_us:
            return None
        del self._asked[seq]
        return asked[0]

    def _probe(self, endpoint: Endpoint, now: float) -> bytes:
        seq, sent = self._next_seq, int(now * 1e6) & 0xFFFF_FFFF_FFFF_FFFF
        self._next_seq = seq + 1 if seq < _LAST_SEQ else FIRST_SEQ
        self._asked[seq] = endpoint, sent
        if len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)
        return encode_control(Probe(seq, sent, 0))
