"""What the python engine looks up: peers by slot, receive keys by index, flows by addresses. All bounded, all plain objects.

Flows are kept least recently used first; when MAX_FLOWS are there the oldest one goes, and should it still live its next frame
is one more upcall. Evicting can only cost time, refusing would cut off honest flows because of one that invents addresses.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from meshd.crypto.aead import Suite
from meshd.crypto.replay import ReplayWindow
from meshd.crypto.session import KEYS_PER_PEER
from meshd.forward.engine.interface import Buffer, DatagramPort, PeerCounters
from meshd.forward.slots import MAX_PEERS
from meshd.ids import Endpoint, SlotId

__all__ = [
    "AGGREGATE_LIMIT",
    "MAX_FLOWS",
    "MAX_KEY_DATAGRAMS",
    "MAX_RECEIVE_KEYS",
    "MAX_SEND_BYTES",
    "MAX_SEND_DATAGRAMS",
    "MAX_WAITING_BYTES",
    "MAX_WAITING_FRAMES",
    "Flow",
    "FlowTable",
    "Operation",
    "Peer",
    "ReceiveKey",
    "RelayReceive",
    "RelaySend",
    "SendKey",
    "Waiting",
]

MAX_FLOWS = 32768  # in each direction: a hundred containers that each talk to three hundred others; some 8 MiB in C
MAX_WAITING_FRAMES = 64  # for a session, a peer
MAX_WAITING_BYTES = 256 * 1024
MAX_KEY_DATAGRAMS = 1 << 28  # twice the number at which the session rekeys; then the key is refused (KEY_EXPIRED)
MAX_RECEIVE_KEYS = KEYS_PER_PEER * MAX_PEERS
MAX_SEND_DATAGRAMS = 64  # UDP_SEGMENT, on the oldest kernels that have it
MAX_SEND_BYTES = 64000  # a little below 65 507: a full one came back from UDP_GRO ungrouped
AGGREGATE_LIMIT = 1280  # UDP payload of small frames sent together, while nobody has measured the path

Operation = Callable[[bytes, Buffer, Buffer], bytes]
K = TypeVar("K", bound=bytes | tuple[int, bytes])  # destination and source MAC in one, inbound behind the peer's slot


class RelaySend:
    """The relay layer of a key to seal with: its own cipher, its own counter."""

    __slots__ = ("counter", "head", "seal")

    def __init__(self, seal: Operation, head: bytes) -> None:
        self.seal = seal
        self.head = head  # the header without its counter and what follows
        self.counter = 0


class RelayReceive:
    """The relay layer of a key to open with: its own cipher, its own window."""

    __slots__ = ("open", "window")

    def __init__(self, open_: Operation) -> None:
        self.open = open_
        self.window = ReplayWindow()


class SendKey:
    """A key to seal with, and the next counter under it. `relay` is made when something is first relayed."""

    __slots__ = ("counter", "head", "head_vouched", "index", "relay", "relay_key", "seal", "secret", "suite")

    def __init__(
        self,
        seal: Operation,
        secret: bytes,
        head: bytes,
        head_vouched: bytes,
        *,
        index: int,
        suite: Suite,
        relay_key: bytes,
    ) -> None:
        self.seal = seal
        self.index = index
        self.suite = suite
        self.relay_key = relay_key  # empty: nothing is relayed
        self.relay: RelaySend | None = None
        self.secret = secret  # only to refuse the same key twice; never shown
        self.head = head  # the datagram header without its counter
        self.head_vouched = head_vouched
        self.counter = 0


class ReceiveKey:
    """A key to open with. `first` until something authentic has come in under it. `relay` as in a `SendKey`."""

    __slots__ = ("accounted", "bytes", "first", "index", "open", "peer", "relay", "relay_key", "suite", "window")

    def __init__(self, index: int, peer: Peer, open_: Operation, *, suite: Suite, relay_key: bytes) -> None:
        self.index = index
        self.suite = suite
        self.relay_key = relay_key
        self.relay: RelayReceive | None = None
        self.peer = peer
        self.open = open_
        self.window = ReplayWindow()
        self.bytes = 0  # of the datagrams that came in since the counters were read
        self.accounted = 0  # of `window.received`, how many the counters have
        self.first = True


class Waiting(NamedTuple):
    """What waits for a session: a captured frame with its vnet header, or an entry that is ready to be sealed."""

    data: bytes
    captured: bool
    vouched: bool


class Peer:
    """All that hangs below one peer's slot."""

    __slots__ = (
        "aggregate",
        "aggregate_limit",
        "aggregate_size",
        "aggregate_vouched",
        "counters",
        "endpoint",
        "fragment_id",
        "max_datagram",
        "measured",
        "outbox",
        "outbox_size",
        "outbox_total",
        "path_set",
        "port",
        "send_key",
        "slot",
        "waiting",
        "waiting_bytes",
        "wanted_at",
        "wrapping",
    )

    def __init__(self, slot: SlotId) -> None:
        self.slot = slot
        self.counters = PeerCounters()
        self.send_key: SendKey | None = None
        self.path_set = False
        self.endpoint: Endpoint | None = None
        self.port: DatagramPort | None = None
        self.max_datagram = 0
        self.wrapping = 0  # what each datagram has around it where the path leads through another peer
        self.measured = False  # that is known, not guessed
        self.fragment_id = 0  # of the next entry that goes in pieces
        # small frames of this wake-up, not sealed yet
        self.aggregate: list[bytes] = []
        self.aggregate_limit = AGGREGATE_LIMIT  # less where the path takes less
        self.aggregate_size = 0
        self.aggregate_vouched = False
        # sealed datagrams of this wake-up: header and ciphertext alternate; all of outbox_size but the last
        self.outbox: list[bytes] = []
        self.outbox_size = 0
        self.outbox_total = 0
        self.waiting: deque[Waiting] = deque()
        self.waiting_bytes = 0
        self.wanted_at = float("-inf")


class Flow:
    """A cached verdict and what went by under it. `peer` is set where frames go to one peer."""

    __slots__ = ("bytes", "frames", "last_used", "peer", "slot")

    def __init__(self, slot: SlotId, peer: Peer | None) -> None:
        self.slot = slot
        self.peer = peer
        self.frames = 0
        self.bytes = 0
        self.last_used = float("-inf")

    def count(self, frames: int, size: int, now: float) -> None:
        """Frames that went by where this object was not looked at."""
        self.frames += frames
        self.bytes += size
        self.last_used = max(self.last_used, now)


class FlowTable(Generic[K]):
    """Flows by key, least recently used first, and their keys by each of their MACs."""

    __slots__ = ("_by_mac", "_limit", "flows", "get", "looked_at", "use")

    def __init__(self, limit: int = MAX_FLOWS) -> None:
        self._limit = limit
        self.flows: OrderedDict[K, Flow] = OrderedDict()
        self._by_mac: dict[bytes, K | set[K]] = {}  # a set where there are several: most MACs of a flood have one
        self.looked_at = 0  # keys, to find or void MACs: tests hold it to what is there
        self.get = self.flows.get
        self.use = self.flows.move_to_end

    def __len__(self) -> int:
        return len(self.flows)

    def add(self, key: K, flow: Flow) -> None:
        """In place of one with the same key; at the limit, in place of the one that was used longest ago."""
        if self.flows.pop(key, None) is None:
            if len(self.flows) >= self._limit:
                oldest, _ = self.flows.popitem(last=False)
                self._unlink(oldest)
            self._link(key)
        self.flows[key] = flow

    def void_mac(self, mac: bytes | None) -> int:
        """Forget the flows that have this MAC at either end (None: all); returns how many."""
        if mac is None:
            count = len(self.flows)
            self.flows.clear()
            self._by_mac.clear()
            return count
        keys = self._keys_of(mac)
        for key in keys:
            del self.flows[key]
            self._unlink(key)
        return len(keys)

    def of_mac(self, mac: bytes) -> dict[K, Flow]:
        """The flows that have this MAC at either end."""
        return {key: self.flows[key] for key in self._keys_of(mac)}

    def sources(self, since: float) -> dict[bytes, float]:
        """The source MACs of flows that were used since then, and when they last were. As many are looked at, and one more."""
        found: dict[bytes, float] = {}
        for key, flow in reversed(self.flows.items()):
            if flow.last_used < since:
                break
            found.setdefault(_macs(key)[1], flow.last_used)
        return found

    def _keys_of(self, mac: bytes) -> list[K]:
        found = self._by_mac.get(mac)
        keys = [] if found is None else list(found) if isinstance(found, set) else [found]
        self.looked_at += len(keys)
        return keys

    def _link(self, key: K) -> None:
        for mac in _macs(key):
            found = self._by_mac.setdefault(mac, key)
            if isinstance(found, set):
                found.add(key)
            elif found != key:
                self._by_mac[mac] = {found, key}

    def _unlink(self, key: K) -> None:
        for mac in _macs(key):
            found = self._by_mac.get(mac)
            if isinstance(found, set):
                found.discard(key)
                if not found:
                    del self._by_mac[mac]
            elif found == key:
                del self._by_mac[mac]


def _macs(key: bytes | tuple[int, bytes]) -> tuple[bytes, bytes]:
    """Destination and source."""
    addresses = key if isinstance(key, bytes) else key[1]
    return addresses[:6], addresses[6:]
