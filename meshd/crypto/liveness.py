"""Which types 1 are new: the highest liveness accepted of each peer, and the challenges for those that fell behind it.

A type 1 shows who sends it, but not when: a copy of it looks the same. Its *liveness*, (boot counter, attempt), does: it must be
above the highest accepted of that peer, and the highest never sinks. A host whose boot counter went back (a backup or a snapshot
was restored, its disk came up older than it was) would be refused until the counter has caught up, perhaps for ever: what became
CVE-2021-46873 where a clock took the counter's place. So a type 1 that authenticates and is not newer is answered with a cookie
that carries a *challenge*: 12 random bytes with the highest bit of the boot counter set, where no counter ever gets. The next type
1 of this peer may carry them in place of its liveness. They lie sealed in its payload under the static keys of both ends, so only
the peer itself can have put them there, and only after they were made: that is new.

A challenge counts once and for CHALLENGE_S. While it stands, whoever asks gets the same one: somebody who sends old copies can
neither use it nor push it away. It does not move the highest, so what was refused stays refused.
"""

from __future__ import annotations

from collections import OrderedDict

from meshd.crypto.noise import Entropy
from meshd.crypto.wire import LIVENESS_SIZE, Liveness, decode_liveness
from meshd.ids import HostId

__all__ = ["CHALLENGE_S", "FIRST_CHALLENGE", "MAX_CHALLENGES", "MAX_LIVENESSES", "LivenessTable"]

MAX_LIVENESSES = 4096  # peers; the one heard longest ago is forgotten, and an old type 1 of it may count again
MAX_CHALLENGES = 256  # that stand; the oldest goes
CHALLENGE_S = 10.0
FIRST_CHALLENGE = 1 << 63  # boot counters from here on are challenges
_TOP_BIT = 0x80


class LivenessTable:
    __slots__ = ("_challenges", "_entropy", "_highest")

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._highest: OrderedDict[HostId, Liveness] = OrderedDict()
        self._challenges: OrderedDict[HostId, tuple[Liveness, float]] = OrderedDict()

    def accept(self, peer: HostId, liveness: Liveness, now: float) -> bool:
        """Whether an authentic type 1 with this liveness is new. What is accepted is so once only."""
        if liveness.boot >= FIRST_CHALLENGE:
            challenge, until = self._challenges.get(peer, (None, now))
            if liveness != challenge or now >= until:
                return False
            del self._challenges[peer]
            return True
        highest = self._highest.get(peer)
        if highest is not None and liveness <= highest:
            return False
        self._highest[peer] = liveness
        self._highest.move_to_end(peer)
        if len(self._highest) > MAX_LIVENESSES:
            self._highest.popitem(last=False)
        return True

    def challenge(self, peer: HostId, now: float) -> Liveness:
        """What the next type 1 of this peer may carry."""
        challenge, until = self._challenges.get(peer, (None, now))
        if challenge is None or now >= until:
            challenge = decode_liveness(_with_top_bit(self._entropy(LIVENESS_SIZE)))
            self._challenges[peer] = (challenge, now + CHALLENGE_S)
            self._challenges.move_to_end(peer)
            if len(self._challenges) > MAX_CHALLENGES:
                self._challenges.popitem(last=False)
        return challenge

    def __len__(self) -> int:
        return len(self._highest)


def _with_top_bit(data: bytes) -> bytes:
    """The highest bit of the boot counter: byte 7, little-endian."""
    return data[:7] + bytes((data[7] | _TOP_BIT,)) + data[8:]
