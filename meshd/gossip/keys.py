"""One direction of a control link under one key: the counter is implied by the stream's order, so it is never sent."""

from __future__ import annotations

from meshd.crypto.aead import Aead, AeadFactory, nonce
from meshd.crypto.handshake import Established

__all__ = ["DirectionKey", "direction_keys"]


class DirectionKey:
    __slots__ = ("_aead", "_counter")

    def __init__(self, aead: Aead) -> None:
        self._aead = aead
        self._counter = 0

    def seal(self, plaintext: bytes) -> bytes:
        sealed = self._aead.seal(nonce(self._counter), plaintext, b"")
        self._counter += 1
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """Raises cryptography.exceptions.InvalidTag."""
        plaintext = self._aead.open(nonce(self._counter), sealed, b"")
        self._counter += 1
        return plaintext


def direction_keys(established: Established, aead: AeadFactory) -> tuple[DirectionKey, DirectionKey]:
    """To send and to receive with."""
    suite = established.suite
    return DirectionKey(aead(suite, established.send_key)), DirectionKey(aead(suite, established.receive_key))
