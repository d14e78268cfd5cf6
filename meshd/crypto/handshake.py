"""One handshake, message by message: IK where the other's static key is known, XX where it is not. For UDP and TCP alike.

    initiator                                   responder
      start() ── 1: e, es, s, ss + liveness ──►   receive()  authorize(static, liveness), allocate index
      receive()  ◄── 2: e, ee, se, psk ──────     established
      established

      start() ── 5: e ───────────────────────►    receive()  allocate index
      receive()  ◄── 6: e, ee, s, es + P ────
      established ── 7: s, se, psk + P ──────►    receive(), established

The machines take messages that `Context.read` has let through (form and mac1) and return the bytes to send back, if any. The
caller carries them: one datagram each over UDP, 2-byte framing over TCP; and it decides about retries, since a machine starts
only once.

Error contract: `receive` raises Rejected when the message is refused. Then ask `failed`. Not failed: nothing has changed, the
true message can still come (a forged answer must not end a handshake). Failed: the machine is of no more use.

Until `psk` has been mixed in, the other side has not shown that it is of our mesh: in IK the responder's keys count only once a
first packet under them came in, in XX the initiator's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from meshd.crypto.aead import Buffer, Suite
from meshd.crypto.identity import Identity, Verifier, verify_binding, verify_signature
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.noise import IK, XX, Entropy, HandshakeState, NoiseError, Pattern
from meshd.crypto.wire import (
    VERSION,
    Liveness,
    Mac1Keys,
    Message,
    MessageType,
    Rejected,
    cookie_static,
    decode_liveness,
    decode_message,
    encode_liveness,
    encode_message,
    mac1_static,
)
from meshd.drops import DropReason
from meshd.errors import DecodeError, LocalProtocolError

__all__ = ["Allocate", "Authorize", "Context", "Established", "Initiator", "Responder"]

Allocate = Callable[[], int]  # a fresh local index; raises Rejected(TABLE_FULL)
Authorize = Callable[[bytes, Liveness], DropReason | None]  # remote static key, liveness -> why there is no answer

_PROLOGUE_LABEL = b"meshd"


@dataclass(slots=True, frozen=True, kw_only=True)
class Established:
    """What a finished handshake leaves behind.

    `remote_identity`: the Ed25519 key that its binding proved (XX), None in IK, where the static key's record says who it is.
    `liveness`: what a type 1 carried, on the responder's side of IK.
    """

    suite: Suite
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    local_index: int
    remote_index: int
    remote_static: bytes
    remote_identity: bytes | None
    handshake_hash: bytes
    initiator: bool
    liveness: Liveness | None


class Context:
    """What all handshakes of one host in one mesh share: identity, mesh key, and the collaborators."""

    __slots__ = ("_cookie_static", "binding", "entropy", "identity", "mac1_keys", "mesh", "prologue", "verifier")

    def __init__(
        self, identity: Identity, mesh: MeshKey, entropy: Entropy, verifier: Verifier = verify_signature
    ) -> None:
        self.identity = identity
        self.mesh = mesh
        self.entropy = entropy
        self.verifier = verifier
        self.binding = identity.binding(mesh.mesh_id)
        self.mac1_keys = Mac1Keys(mac1_static(identity.x25519_public), mesh.mac1_bootstrap)
        self._cookie_static = cookie_static(identity.x25519_public)
        # Another version, suite or mesh fails in Noise; nothing is negotiated, so nothing can be talked down.
        self.prologue = _PROLOGUE_LABEL + bytes((VERSION, mesh.suite)) + mesh.mesh_id

    def read(self, data: Buffer, *, cookies: bool = False) -> Message:
        """A message whose form and mac1 are right. Raises Rejected. `cookies`: see `decode_message`."""
        return decode_message(data, self.mac1_keys, cookies=cookies)

    def cookie_key(self, kind: MessageType) -> bytes:
        """Of the cookies that answer a type 1 or 5."""
        return self._cookie_static if kind is MessageType.INIT else self.mesh.cookie_bootstrap

    def noise(self, pattern: Pattern, *, initiator: bool, remote_static: bytes | None = None) -> HandshakeState:
        return HandshakeState(
            pattern,
            initiator=initiator,
            prologue=self.prologue,
            psk=self.mesh.psk,
            static=self.identity.dh,
            entropy=self.entropy,
            remote_static=remote_static,
        )

    def remote_identity(self, noise: HandshakeState, payload: bytes) -> bytes:
        """The Ed25519 key behind the binding in an XX payload. Raises Rejected."""
        try:
            return verify_binding(payload, self.mesh.mesh_id, _static_of(noise), self.verifier)
        except DecodeError:
            raise Rejected(DropReason.BAD_HANDSHAKE) from None

    def established(
        self,
        noise: HandshakeState,
        *,
        initiator: bool,
        local_index: int,
        remote_index: int,
        remote_identity: bytes | None,
        liveness: Liveness | None = None,
    ) -> Established:
        first, second = noise.split()
        return Established(
            suite=self.mesh.suite,
            send_key=first if initiator else second,
            receive_key=second if initiator else first,
            local_index=local_index,
            remote_index=remote_index,
            remote_static=_static_of(noise),
            remote_identity=remote_identity,
            handshake_hash=noise.handshake_hash,
            initiator=initiator,
            liveness=liveness,
        )


class _State(enum.Enum):
    NEW = enum.auto()
    WAITING = enum.auto()  # for the answer to what was sent
    ESTABLISHED = enum.auto()
    FAILED = enum.auto()


_TRANSITIONS = {
    _State.NEW: (_State.WAITING, _State.ESTABLISHED, _State.FAILED),
    _State.WAITING: (_State.ESTABLISHED, _State.FAILED),
    _State.ESTABLISHED: (),
    _State.FAILED: (),
}


class _Machine:
    """The state both roles have."""

    __slots__ = ("_context", "_state", "established")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._state = _State.NEW
        self.established: Established | None = None

    @property
    def failed(self) -> bool:
        return self._state is _State.FAILED

    def _set_state(self, state: _State) -> None:
        if state not in _TRANSITIONS[self._state]:
            raise LocalProtocolError(f"handshake: {self._state.name} to {state.name}")
        self._state = state

    def _finish(self, established: Established) -> None:
        self._set_state(_State.ESTABLISHED)
        self.established = established


class Initiator(_Machine):
    """IK when `remote_static` is given, with the liveness that type 1 carries; else XX."""

    __slots__ = ("_liveness", "_noise", "index", "remote_static")

    def __init__(
        self,
        context: Context,
        *,
        index: int,
        remote_static: bytes | None = None,
        liveness: Liveness | None = None,
    ) -> None:
        super().__init__(context)
        if (remote_static is None) != (liveness is None):
            raise LocalProtocolError("a liveness goes with a known static key")
        pattern = XX if remote_static is None else IK
        self._noise = context.noise(pattern, initiator=True, remote_static=remote_static)
        self._liveness = liveness
        self.index = index
        self.remote_static = remote_static

    def start(self) -> bytes:
        """Message 1 or 5. Raises Rejected (and has failed) when the other's static key is no usable point."""
        context = self._context
        if self._state is not _State.NEW:
            raise LocalProtocolError("a handshake starts once")
        payload = b"" if self._liveness is None else encode_liveness(self._liveness)
        try:
            noise = self._noise.write_message(payload)
        except NoiseError:
            self._set_state(_State.FAILED)
            raise Rejected(DropReason.BAD_HANDSHAKE) from None
        self._set_state(_State.WAITING)
        if self.remote_static is None:
            return encode_message(
                Message(MessageType.BOOTSTRAP_INIT, self.index, 0, noise), context.mesh.mac1_bootstrap
            )
        return encode_message(Message(MessageType.INIT, self.index, 0, noise), mac1_static(self.remote_static))

    @property
    def ephemeral_public(self) -> bytes | None:
        return self._noise.ephemeral_public

    def receive(self, message: Message) -> bytes | None:
        """The answer: type 2 (nothing to send back) or 6 (send the type 7 that this returns). Raises Rejected, never failed."""
        wanted = MessageType.BOOTSTRAP_RESPONSE if self.remote_static is None else MessageType.RESPONSE
        if self._state is not _State.WAITING or message.type is not wanted or message.receiver != self.index:
            raise Rejected(DropReason.UNEXPECTED_HANDSHAKE)
        context = self._context
        noise = self._noise.copy()  # adopted by finishing; a refused message leaves self._noise as it was
        identity: bytes | None = None
        reply: bytes | None = None
        try:
            payload = noise.read_message(message.noise)
            if wanted is MessageType.BOOTSTRAP_RESPONSE:
                identity = context.remote_identity(noise, payload)
                reply = encode_message(
                    Message(
                        MessageType.BOOTSTRAP_FINISH,
                        self.index,
                        message.sender,
                        noise.write_message(context.binding),
                    ),
                    context.mesh.mac1_bootstrap,
                )
            elif payload:
                raise Rejected(DropReason.BAD_HANDSHAKE)
        except NoiseError:
            raise Rejected(DropReason.BAD_HANDSHAKE) from None
        self._finish(
            context.established(
                noise,
                initiator=True,
                local_index=self.index,
                remote_index=message.sender,
                remote_identity=identity,
            )
        )
        return reply


class Responder(_Machine):
    """Answers one type 1, or one type 5 and the type 7 after it.

    `authorize` is asked once a type 1 has shown who sends it and before anything is answered or allocated; the reason it returns is
    the drop. Whoever sends type 5 is known only at type 7: there the caller looks at `established.remote_identity`.
    """

    __slots__ = ("_allocate", "_authorize", "_noise", "_remote_index", "index")

    def __init__(self, context: Context, *, allocate: Allocate, authorize: Authorize) -> None:
        super().__init__(context)
        self._allocate = allocate
        self._authorize = authorize
        self._noise: HandshakeState | None = None
        self._remote_index = 0
        self.index = 0

    def receive(self, message: Message) -> bytes | None:
        """The reply to a type 1 or 5, None for type 7. Raises Rejected; failed only if the reply could not be made."""
        match message.type, self._state:
            case MessageType.INIT, _State.NEW:
                return self._answer_init(message)
            case MessageType.BOOTSTRAP_INIT, _State.NEW:
                return self._answer_bootstrap(message)
            case MessageType.BOOTSTRAP_FINISH, _State.WAITING:
                self._finish_bootstrap(message)
                return None
        raise Rejected(DropReason.UNEXPECTED_HANDSHAKE)

    def _answer_init(self, message: Message) -> bytes:
        context = self._context
        noise = context.noise(IK, initiator=False)
        liveness = decode_liveness(_read(noise, message.noise))
        static = _static_of(noise)
        refused = self._authorize(static, liveness)
        if refused is not None:
            raise Rejected(refused)
        answer = self._write(noise, b"")
        self.index = self._allocate()
        self._finish(
            context.established(
                noise,
                initiator=False,
                local_index=self.index,
                remote_index=message.sender,
                remote_identity=None,
                liveness=liveness,
            )
        )
        return encode_message(Message(MessageType.RESPONSE, self.index, message.sender, answer), mac1_static(static))

    def _answer_bootstrap(self, message: Message) -> bytes:
        context = self._context
        noise = context.noise(XX, initiator=False)
        if _read(noise, message.noise):
            raise Rejected(DropReason.BAD_HANDSHAKE)
        answer = self._write(noise, context.binding)
        self.index = self._allocate()
        self._noise = noise
        self._remote_index = message.sender
        self._set_state(_State.WAITING)
        return encode_message(
            Message(MessageType.BOOTSTRAP_RESPONSE, self.index, message.sender, answer), context.mesh.mac1_bootstrap
        )

    def _finish_bootstrap(self, message: Message) -> None:
        if self._noise is None or message.receiver != self.index or message.sender != self._remote_index:
            raise Rejected(DropReason.UNEXPECTED_HANDSHAKE)
        noise = self._noise.copy()
        identity = self._context.remote_identity(noise, _read(noise, message.noise))
        self._finish(
            self._context.established(
                noise,
                initiator=False,
                local_index=self.index,
                remote_index=self._remote_index,
                remote_identity=identity,
            )
        )
        self._noise = None

    def _write(self, noise: HandshakeState, payload: bytes) -> bytes:
        """A peer's small-order key shows only here, in the DH of our own message."""
        try:
            return noise.write_message(payload)
        except NoiseError:
            self._set_state(_State.FAILED)
            raise Rejected(DropReason.BAD_HANDSHAKE) from None


def _read(noise: HandshakeState, message: bytes) -> bytes:
    try:
        return noise.read_message(message)
    except NoiseError:
        raise Rejected(DropReason.BAD_HANDSHAKE) from None


def _static_of(noise: HandshakeState) -> bytes:
    if noise.remote_static is None:
        raise LocalProtocolError("the other side's static key is not known yet")
    return noise.remote_static
