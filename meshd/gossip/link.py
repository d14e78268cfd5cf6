"""One control link: a TCP byte stream made into authenticated messages, and back. Sans-IO.

    NEW ──(dialler: start)──► HANDSHAKE ──► READY ──► CLOSED
     └────(acceptor: first frame)─┘  └── CONFIRMING ──┘  (acceptor of an IK: its keys count once a frame under them came in)

Frames are `length u16 LE | body`. During the handshake a body is a handshake message as it stands in a datagram: IK (1, 2)
where the dialler knows whom it dials, else XX (5–7); the acceptor answers whichever comes. Afterwards a body is one sealed
message; counters are implicit, since TCP keeps the order, so whatever is replayed, left out or flipped fails to open and ends
the link.

Before the mesh key has been shown nothing is answered: a first frame whose size, type or mac1 is wrong closes the link without
a byte, and a handshake that is not finished within 5 s does too.

Keys change in place every 120 s ± 10 %. The dialler starts an IK handshake inside the link. Each direction switches by itself,
at a message boundary that both ends know: the acceptor seals everything *after* REKEY_ANSWER with the new key, the dialler
everything after REKEY_DONE. So data in flight either way is always opened with the key that sealed it.

After LinkFailed or LinkClosed the object is of no more use; what came before them stands.
"""

from __future__ import annotations

from collections import deque

from cryptography.exceptions import InvalidTag

from meshd.budget import TokenBucket
from meshd.crypto.aead import TAG_SIZE
from meshd.crypto.handshake import Established, Initiator, Responder
from meshd.crypto.identity import host_id_of
from meshd.crypto.wire import MAX_HANDSHAKE_SIZE, Rejected
from meshd.drops import DropReason
from meshd.errors import DecodeError, LocalProtocolError
from meshd.gossip import messages
from meshd.gossip.framing import FrameReader, frame
from meshd.gossip.keys import DirectionKey, direction_keys
from meshd.gossip.linktypes import (
    HANDSHAKE_TIME,
    KEEPALIVE,
    LINK_ANSWER_BURST,
    LINK_ANSWER_RATE,
    MAX_BAD_MESSAGES,
    MAX_EVENTS,
    NO_ANSWER,
    OURSELF,
    REKEY_LIMIT,
    REKEY_RETRY,
    REKEY_TIME,
    SILENCE,
    TRANSITIONS,
    LinkClosed,
    LinkConfig,
    LinkEvent,
    LinkFailed,
    LinkReady,
    LinkState,
    MessageReceived,
    refusal,
)
from meshd.gossip.messages import Message
from meshd.ids import HostId

__all__ = ["ControlLink"]


class ControlLink:
    """`address`: the other end, for texts. `remote_static`: dial with IK; None with `dial` True: XX."""

    def __init__(
        self, config: LinkConfig, *, address: str, dial: bool, now: float, remote_static: bytes | None = None
    ) -> None:
        self.address = address
        self.dialled = dial
        self.state = LinkState.NEW
        self.host: HostId | None = None
        self._config = config
        self._in = FrameReader(self._size_is_possible)
        self._out = bytearray()
        self._events: deque[LinkEvent] = deque()
        self._deadline = now + HANDSHAKE_TIME
        self._initiator: Initiator | None = None
        self._responder: Responder | None = None
        self._send: DirectionKey | None = None
        self._receive: DirectionKey | None = None
        self._next_receive: DirectionKey | None = None  # acceptor: from REKEY_DONE on
        self._remote_static = remote_static
        self._remote_ed25519: bytes | None = None
        self._heard = now
        self._pinged = now
        self._rekeys: dict[int, Initiator] = {}  # under way, at most REKEY_LIMIT / REKEY_RETRY
        self._rekey_at = now
        self._keyed_at = now
        self._bad_messages = 0
        self._answers = TokenBucket(LINK_ANSWER_RATE, LINK_ANSWER_BURST)
        if dial:
            self._start(now)

    # bytes

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the connection, in any portions; b"" is its end."""
        if self.state is LinkState.CLOSED:
            return
        if not data:
            self._end_of_stream()
            return
        self._in.feed(data)
        while not self.closed():
            try:
                body = self._in.next()
            except DecodeError:
                self._fail(DropReason.LINK_GARBAGE, f"{self.address}: not a control link's bytes")
                return
            if body is None:
                return
            if self.state in (LinkState.NEW, LinkState.HANDSHAKE):
                self._handshake(body, now)
            else:
                self._sealed(body, now)

    def closed(self) -> bool:
        return self.state is LinkState.CLOSED

    def data_to_send(self) -> bytes:
        data = bytes(self._out)
        self._out.clear()
        return data

    def _size_is_possible(self, size: int) -> bool:
        """Checked before the body is waited for: a stranger cannot make us hold 64 KB."""
        handshake = self.state in (LinkState.NEW, LinkState.HANDSHAKE)
        return 0 < size <= MAX_HANDSHAKE_SIZE if handshake else size > TAG_SIZE

    # messages

    def send_message(self, message: Message) -> None:
        """Raises LocalProtocolError unless the link is ready; on a closed link the message is dropped."""
        if self.state is LinkState.CLOSED:
            return
        if self.state is not LinkState.READY:
            raise LocalProtocolError("the link is not ready")
        self._seal(message)

    def close(self) -> None:
        """We are going: say so and end. Bytes may be left to send."""
        if self.state is LinkState.READY:
            self._seal(messages.Leave())
        if self.state is not LinkState.CLOSED:
            self._set_state(LinkState.CLOSED)

    def next_event(self) -> LinkEvent | None:
        return self._events.popleft() if self._events else None

    def _seal(self, message: Message) -> None:
        if self._send is None:
            raise LocalProtocolError("no key to send with")
        self._out += frame(self._send.seal(messages.encode_message(message)))

    # handshake

    def _start(self, now: float) -> None:
        config = self._config
        if self._remote_static == config.context.identity.x25519_public:
            self._fail(DropReason.REFLECTED, OURSELF, ourself=True)
            return
        try:
            self._initiator = self._new_initiator(self._remote_static)
            first = self._initiator.start()
        except Rejected as rejected:
            self._fail(rejected.reason, "its key is of no use")
            return
        self._out += frame(first)
        self._set_state(LinkState.HANDSHAKE)

    def _new_initiator(self, static: bytes | None) -> Initiator:
        liveness = None if static is None else self._config.liveness()
        return Initiator(self._config.context, index=self._config.index(), remote_static=static, liveness=liveness)

    def _handshake(self, body: bytes, now: float) -> None:
        try:
            message = self._config.context.read(body)
            if self.state is LinkState.NEW:
                self._responder = Responder(
                    self._config.context, allocate=self._config.index, authorize=self._config.authorize
                )
            machine = self._initiator or self._responder
            if machine is None:
                raise LocalProtocolError("a handshake without a machine")
            reply = machine.receive(message)
            established = machine.established
            if established is not None and not self._identify(established):
                return
        except Rejected as rejected:
            self._rejected(rejected.reason, body)
            return
        if reply is not None:
            self._out += frame(reply)
        if established is None:
            self._set_state(LinkState.HANDSHAKE)
            return
        self._send, self._receive = direction_keys(established, self._config.aead)
        self._new_keys_since(now)
        if self._responder is not None and established.remote_identity is None:
            self._set_state(LinkState.CONFIRMING)
        else:
            self._ready(now)

    def _rejected(self, reason: DropReason, body: bytes) -> None:
        if self.dialled:
            self._fail(reason, NO_ANSWER)
        else:
            text, other_mesh_key = refusal(reason, body, self.address)
            self._fail(reason, text, other_mesh_key=other_mesh_key)

    def _identify(self, established: Established) -> bool:
        """Who is it? False (and failed) for ourself, for nobody we know, and for another than we dialled."""
        static = established.remote_static
        if static == self._config.context.identity.x25519_public:
            self._fail(DropReason.REFLECTED, OURSELF, ourself=True)
            return False
        ed25519 = established.remote_identity or self._config.lookup(static)
        if ed25519 is None:
            self._fail(DropReason.UNKNOWN_PEER, f"{self.address}: no record of its key")
            return False
        self._remote_static, self._remote_ed25519 = static, ed25519
        self.host = host_id_of(ed25519)
        return True

    def _new_keys_since(self, now: float) -> None:
        self._keyed_at = now
        self._rekey_at = now + self._config.rekey_time * self._config.rng.uniform(0.9, 1.1)

    def _ready(self, now: float) -> None:
        if self.host is None or self._remote_ed25519 is None or self._remote_static is None:
            raise LocalProtocolError("ready, but with whom?")
        self._set_state(LinkState.READY)
        self._initiator = self._responder = None
        self._heard = self._pinged = now
        self._event(LinkReady(self.host, self._remote_ed25519, self._remote_static))
        if self.dialled:
            self._seal(messages.Ping())  # the first frame under the keys confirms them to the acceptor

    # sealed messages

    def _sealed(self, body: bytes, now: float) -> None:
        if self._receive is None:
            raise LocalProtocolError("a sealed frame without a key")
        try:
            plain = self._receive.open(body)
        except InvalidTag:
            self._fail(DropReason.BAD_TAG, f"{self.address}: a frame that does not open")
            return
        self._heard = now
        if self.state is LinkState.CONFIRMING:
            self._ready(now)
        try:
            self._dispatch(messages.decode_message(plain), now)
        except DecodeError:
            self._bad_message()

    def _bad_message(self) -> None:
        """One bad message costs only itself; a peer that sends nothing else is cut off."""
        self._config.drops.add(DropReason.BAD_RECORD)
        self._bad_messages += 1
        if self._bad_messages >= MAX_BAD_MESSAGES:
            self._fail(DropReason.LINK_GARBAGE, f"{self.address}: too many malformed messages")

    def _dispatch(self, message: Message, now: float) -> None:
        match message:
            case messages.Ping() | messages.RekeyInit() if not self._answers.take(now):
                self._config.drops.add(DropReason.RATE_LIMITED)
            case messages.Ping():
                self._seal(messages.Pong())
            case messages.Pong():
                pass  # it was heard
            case messages.RekeyInit():
                self._answer_rekey(message.handshake, now)
            case messages.RekeyAnswer():
                self._finish_rekey(message.handshake, now)
            case messages.RekeyDone():
                self._switch_receive(now)
            case messages.Leave():
                self._end(LinkClosed("the other host left", left=True))
            case messages.Unknown():
                self._config.drops.add(DropReason.UNKNOWN_TYPE)
            case _:
                self._event(MessageReceived(message))

    # rekey

    def _start_rekey(self, now: float) -> None:
        """Again after a while without an answer: a type 1 that another link's overtook is refused as not newer."""
        self._rekey_at = now + self._config.rekey_time * REKEY_RETRY / REKEY_TIME
        try:
            initiator = self._new_initiator(self._remote_static)
            self._seal(messages.RekeyInit(initiator.start()))
            self._rekeys[initiator.index] = initiator
        except Rejected as rejected:
            self._fail(rejected.reason, f"{self.address}: rekey failed")

    def _answer_rekey(self, handshake: bytes, now: float) -> None:
        if self.dialled:
            raise DecodeError("a rekey from the wrong end")
        if self._next_receive is not None:
            return  # a repetition: the one before it has been answered
        responder = Responder(self._config.context, allocate=self._config.index, authorize=self._config.authorize)
        reply = responder.receive(self._config.context.read(handshake))
        established = responder.established
        if reply is None or established is None or established.remote_static != self._remote_static:
            raise DecodeError("a rekey with another key")
        self._seal(messages.RekeyAnswer(reply))
        self._send, self._next_receive = direction_keys(established, self._config.aead)

    def _finish_rekey(self, handshake: bytes, now: float) -> None:
        answer = self._config.context.read(handshake)
        initiator = self._rekeys.get(answer.receiver)
        if initiator is None:
            raise DecodeError("an answer to no rekey")
        initiator.receive(answer)
        established = initiator.established
        if established is None:
            raise DecodeError("an answer that ends no handshake")
        self._rekeys.clear()
        self._seal(messages.RekeyDone())
        self._send, self._receive = direction_keys(established, self._config.aead)
        self._new_keys_since(now)

    def _switch_receive(self, now: float) -> None:
        if self._next_receive is None:
            raise DecodeError("the end of no rekey")
        self._receive, self._next_receive = self._next_receive, None
        self._new_keys_since(now)

    # time

    def next_deadline(self) -> float | None:
        if self.state is LinkState.CLOSED:
            return None
        if self.state is not LinkState.READY:
            return self._deadline
        deadlines = [self._heard + SILENCE, self._pinged + KEEPALIVE, self._keyed_at + self._expiry]
        if self.dialled:
            deadlines.append(self._rekey_at)
        return min(deadlines)

    @property
    def _expiry(self) -> float:
        return self._config.rekey_time * REKEY_LIMIT / REKEY_TIME

    def handle_timer(self, now: float) -> None:
        if self.state is LinkState.CLOSED:
            return
        if self.state is not LinkState.READY:
            if now >= self._deadline:
                if self.dialled:
                    self._unanswered()
                else:
                    self._fail(DropReason.LINK_LIMIT, f"{self.address}: no handshake within {HANDSHAKE_TIME:g} s")
            return
        if now >= self._heard + SILENCE:
            self._end(LinkClosed(f"nothing heard for {SILENCE:g} s"))
        elif now >= self._keyed_at + self._expiry:
            self._fail(DropReason.KEY_EXPIRED, f"{self.address}: rekey was not finished")
        else:
            if self.dialled and now >= self._rekey_at:
                self._start_rekey(now)
            if self.state is LinkState.READY and now >= self._pinged + KEEPALIVE:
                self._pinged = now
                self._seal(messages.Ping())

    # ends

    def _end_of_stream(self) -> None:
        if self.state is LinkState.READY:
            self._end(LinkClosed("closed by the other host"))
        elif self.dialled:
            self._unanswered()
        else:
            self._fail(DropReason.LINK_GARBAGE, f"{self.address}: closed before its handshake")

    def _event(self, event: LinkEvent) -> None:
        if len(self._events) >= MAX_EVENTS:
            self._fail(DropReason.LINK_LIMIT, f"{self.address}: too many messages at once")
        else:
            self._events.append(event)

    def _unanswered(self) -> None:
        """Not counted: nothing of anybody's was dropped."""
        self._out.clear()
        self._end(LinkFailed(DropReason.BAD_HANDSHAKE, NO_ANSWER))

    def _end(self, event: LinkFailed | LinkClosed) -> None:
        self._set_state(LinkState.CLOSED)
        self._in.clear()
        self._events.append(event)

    def _fail(self, reason: DropReason, text: str, *, other_mesh_key: bool = False, ourself: bool = False) -> None:
        """End with nothing sent: what had been written but not fetched goes too."""
        self._config.drops.add(reason)
        self._out.clear()
        self._end(LinkFailed(reason, text, other_mesh_key, ourself))

    def _set_state(self, state: LinkState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise LocalProtocolError(f"link: {self.state.name} to {state.name}")
        self.state = state
