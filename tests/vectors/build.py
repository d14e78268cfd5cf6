"""The vectors that whole conversations and derivations have, made from the code with fixed secrets.

`python -m tests.vectors.build` writes them. They change only with the protocol: a difference in `git diff` is a new wire format.
Secrets are runs of one byte, as in crypto_handshake.json: the initiator's (dialler's) Ed25519 seed is 10…, its X25519 key 11…,
its ephemeral keys 12… and up; the responder's (acceptor's) begin at 20….
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from meshd.crypto.aead import Aead, Buffer, Suite, new_aead, nonce
from meshd.crypto.cookie import CookieKind, CookieMaker, mac2, seal_cookie
from meshd.crypto.handshake import Context, Initiator
from meshd.crypto.identity import Identity
from meshd.crypto.meshkey import MeshKey
from meshd.crypto.wire import Liveness, cookie_static, decode_liveness, mac1_static
from meshd.drops import DropCounters
from meshd.forward.control import Bye, ByeReason, Probe, encode_control
from meshd.forward.entries import EntryKind, FloodHeader, encode_entry, encode_flood
from meshd.forward.fragment import fragments
from meshd.forward.header import FLAG_VOUCHED, DataHeader, encode_data_header
from meshd.gossip.link import ControlLink
from meshd.gossip.linktypes import LinkConfig
from meshd.gossip.messages import DigestMessage, Hello, Message, Records, Root, Want, WantRow
from meshd.gossip.records import Batch, Record, sign_record
from meshd.gossip.store import Digest
from meshd.gossip.values import LINKS_KEY, LearnedValue, LinksValue, encode_value, learned_key
from meshd.ids import Endpoint, HostId, Mac, SegmentId, ShortId, host_name, short_id

Json = dict[str, Any]

FOLDER = Path(__file__).parent
MESH = MeshKey(suite=Suite.AES_256_GCM, mesh_id=bytes(range(16)), key=bytes(range(32)), from_password=False)
KEY = bytes(range(32))
FRAME = bytes.fromhex("02000000000b02000000000a88b5") + b"hello mesh"
PASSWORD, MESH_NAME = "correct horse battery staple", "meshd"


def _run(value: int) -> bytes:
    return bytes((value,)) * 32


INITIATOR = Identity(_run(0x10), _run(0x11))
RESPONDER = Identity(_run(0x20), _run(0x21))


def _entropy(start: int) -> Callable[[int], bytes]:
    values = itertools.count(start)
    return lambda size: bytes((next(values),)) * size


# keys.json


def _identity(identity: Identity) -> Json:
    return {
        "stored": identity.to_bytes().hex(),
        "ed25519": identity.ed25519_public.hex(),
        "x25519": identity.x25519_public.hex(),
        "host_id": identity.host_id.hex(),
        "short_id": short_id(identity.host_id).hex(),
        "name": host_name(identity.host_id).hex(":"),
        "binding": identity.binding(MESH.mesh_id).hex(),
        "mac1": mac1_static(identity.x25519_public).hex(),
        "cookie": cookie_static(identity.x25519_public).hex(),
    }


def _mesh(mesh: MeshKey) -> Json:
    return {
        "text": mesh.to_text(),
        "suite": mesh.suite.value,
        "mesh_id": mesh.mesh_id.hex(),
        "key": mesh.key.hex(),
        "psk": mesh.psk.hex(),
        "mac1_bootstrap": mesh.mac1_bootstrap.hex(),
        "cookie_bootstrap": mesh.cookie_bootstrap.hex(),
        "prologue": Context(INITIATOR, mesh, _entropy(0)).prologue.hex(),
    }


def keys() -> Json:
    derived = MeshKey.derive(PASSWORD, MESH_NAME)
    return {
        "source": "meshd's own, pinned with protocol version 1: docs/protocol.md, Keys; by tests/vectors/build.py",
        "initiator": _identity(INITIATOR),
        "responder": _identity(RESPONDER),
        "mesh": _mesh(MESH),
        "password": {"password": PASSWORD, "mesh_name": MESH_NAME, **_mesh(derived)},
    }


# sealed.json


def _sealed(suite: Suite, flags: int, counter: int, plain: bytes) -> Json:
    header = encode_data_header(DataHeader(flags, 0, 0x0A0B0C0D, counter))
    return {
        "suite": suite.name,
        "header": header.hex(),
        "nonce": nonce(counter).hex(),
        "plaintext": plain.hex(),
        "datagram": (header + new_aead(suite, KEY).seal(nonce(counter), plain, header)).hex(),
    }


def sealed() -> Json:
    probe = encode_entry(EntryKind.CONTROL, encode_control(Probe(1, 1_000_000, 0)))
    flood = encode_flood(FloodHeader(short_id(INITIATOR.host_id), 5, 1, 16), FRAME)
    frames = encode_entry(EntryKind.FRAME, FRAME) + encode_entry(EntryKind.FRAME, FRAME[:14])
    return {
        "source": "meshd's own, pinned with protocol version 1: docs/protocol.md, Data; by tests/vectors/build.py",
        "key": KEY.hex(),
        "datagrams": [
            row
            for suite in Suite
            for row in (
                _sealed(suite, 0, 0, probe),
                _sealed(suite, FLAG_VOUCHED, 1, frames),
                _sealed(suite, 0, (1 << 28) - 1, flood),
            )
        ],
    }


# entries.json


def _flood(origin: bytes, boot: int, sequence: int, ttl: int) -> Json:
    header = FloodHeader(ShortId(origin), boot, sequence, ttl)
    return {
        "origin": origin.hex(),
        "boot": boot,
        "sequence": sequence,
        "ttl": ttl,
        "frame": FRAME.hex(),
        "entry": encode_flood(header, FRAME).hex(),
    }


def _fragments(entry: bytes, identification: int, room: int) -> Json:
    pieces = fragments(entry, identification, room)
    return {"id": identification, "room": room, "entry": entry.hex(), "pieces": [piece.hex() for piece in pieces]}


def entries() -> Json:
    control = encode_control(Bye(ByeReason.STOPPING))
    return {
        "source": "meshd's own, pinned with protocol version 1: docs/protocol.md, Entries; by tests/vectors/build.py",
        "plain": [
            {"kind": EntryKind.FRAME.value, "body": FRAME.hex(), "entry": encode_entry(EntryKind.FRAME, FRAME).hex()},
            {
                "kind": EntryKind.CONTROL.value,
                "body": control.hex(),
                "entry": encode_entry(EntryKind.CONTROL, control).hex(),
            },
            {"kind": EntryKind.FRAME.value, "body": "", "entry": encode_entry(EntryKind.FRAME, b"").hex()},
        ],
        "floods": [
            _flood(bytes(range(0xA0, 0xA8)), 0x01020304, 0x05060708, 16),
            _flood(short_id(RESPONDER.host_id), 1, 0xFFFFFFFF, 1),
        ],
        "fragments": [
            _fragments(encode_entry(EntryKind.FRAME, FRAME + bytes(range(256))), 7, 262),
            _fragments(encode_flood(FloodHeader(ShortId(bytes(range(8))), 1, 2, 16), FRAME + bytes(600)), 0xFFFF, 300),
        ],
        "bad": ["18", "1800", "ffff00", "0340010203ff"],
    }


# link.json


class _Tape:
    """Stands between a link and its keys, and writes down what was sealed."""

    def __init__(self) -> None:
        self.sealed: dict[bytes, Json] = {}

    def factory(self, suite: Suite, key: bytes) -> Aead:
        return _Recorded(new_aead(suite, key), key, self.sealed)


class _Recorded:
    def __init__(self, aead: Aead, key: bytes, sealed: dict[bytes, Json]) -> None:
        self._aead = aead
        self._key = key
        self._sealed = sealed

    def seal(self, nonce: bytes, plaintext: Buffer, aad: Buffer, /) -> bytes:
        result = self._aead.seal(nonce, plaintext, aad)
        counter = int.from_bytes(nonce[4:], "little")
        self._sealed[result] = {"key": self._key.hex(), "counter": counter, "message": bytes(plaintext).hex()}
        return result

    def open(self, nonce: bytes, sealed: Buffer, aad: Buffer, /) -> bytes:
        return self._aead.open(nonce, sealed, aad)


class _Conversation:
    """Two control links, carried by hand; every frame becomes a row. Rekeyed 1.2 s after the start."""

    def __init__(self, *, known: bool) -> None:
        self._tape = _Tape()
        self.rows: list[Json] = []
        dialler = self._config(INITIATOR, RESPONDER, 0x12, 0x01020304)
        acceptor = self._config(RESPONDER, INITIATOR, 0x22, 0x0A0B0C0D)
        static = RESPONDER.x25519_public if known else None
        self.dialler = ControlLink(dialler, address="192.0.2.2:6783", dial=True, now=0.0, remote_static=static)
        self.acceptor = ControlLink(acceptor, address="192.0.2.1:40000", dial=False, now=0.0)
        self.settle()

    def _config(self, own: Identity, other: Identity, ephemeral: int, index: int) -> LinkConfig:
        attempts, indices = itertools.count(6), itertools.count(index)
        return LinkConfig(
            context=Context(own, MESH, _entropy(ephemeral)),
            lookup={other.x25519_public: other.ed25519_public}.get,
            liveness=lambda: Liveness(5, next(attempts)),
            authorize=lambda static, liveness: None,
            index=lambda: next(indices),
            rng=Random(0),
            drops=DropCounters(),
            aead=self._tape.factory,
            rekey_time=1.0,
        )

    def settle(self, now: float = 0.0) -> None:
        while self._carry("dialler", self.dialler, self.acceptor, now) + self._carry(
            "acceptor", self.acceptor, self.dialler, now
        ):
            pass

    def _carry(self, name: str, source: ControlLink, target: ControlLink, now: float) -> int:
        data = source.data_to_send()
        for frame in _frames(data):
            self.rows.append({"from": name, "frame": frame.hex(), **self._tape.sealed.get(frame[2:], {})})
        if data:
            target.receive(data, now)
        return len(data)

    def say(self, link: ControlLink, message: Message) -> None:
        link.send_message(message)
        self.settle()

    def rekey(self) -> None:
        self.dialler.handle_timer(1.2)
        self.settle(1.2)


def _frames(data: bytes) -> Iterator[bytes]:
    while data:
        size = 2 + int.from_bytes(data[:2], "little")
        yield data[:size]
        data = data[size:]


def log_of(identity: Identity) -> Batch:
    """Two records under epoch 5: links, then a learned MAC."""
    mac = Mac(bytes.fromhex("02000000000a"))
    values = (
        (LINKS_KEY, encode_value(LinksValue(neighbours=((short_id(RESPONDER.host_id), 0),)))),
        (learned_key(mac), encode_value(LearnedValue(mac=mac, segment=SegmentId(0), claim=1))),
    )
    host: HostId = identity.host_id
    records = [Record(host, 5, number, key, value, b"") for number, (key, value) in enumerate(values, 1)]
    signed = tuple(sign_record(MESH.mesh_id, record, identity.sign) for record in records)
    return Batch(identity.ed25519_public, 5, 0, True, None, signed)


def link() -> Json:
    batch = log_of(INITIATOR)
    low, high = ShortId(bytes(8)), ShortId(b"\xff" * 8)
    bootstrap = _Conversation(known=False)
    for speaker, message in (
        (bootstrap.dialler, Hello("192.0.2.2", (batch,))),
        (bootstrap.acceptor, Hello("192.0.2.1", ())),
        (bootstrap.dialler, Root(bytes(range(8)))),
        (bootstrap.acceptor, DigestMessage(low, high, (Digest(short_id(INITIATOR.host_id), 5, 2, 7),))),
        (bootstrap.dialler, Want((WantRow(short_id(RESPONDER.host_id), 1, 0),))),
        (bootstrap.acceptor, Records(())),
    ):
        bootstrap.say(speaker, message)
    bootstrap.rekey()
    bootstrap.say(bootstrap.acceptor, Records((batch,)))
    bootstrap.dialler.close()
    bootstrap.settle(1.2)
    known = _Conversation(known=True)
    known.acceptor.close()
    known.settle()
    return {
        "source": "meshd's own, pinned with protocol version 1: docs/protocol.md, Control links; by tests/vectors/build.py",
        "unknown": bootstrap.rows,
        "known": known.rows,
    }


# cookie.json


def _first(static: bytes | None, liveness: Liveness | None) -> bytes:
    machine = Initiator(
        Context(INITIATOR, MESH, _entropy(0x12)), index=0x01020304, remote_static=static, liveness=liveness
    )
    return machine.start()


def _cookie(answers: bytes, key: bytes, kind: CookieKind, value: bytes) -> Json:
    nonce = bytes((0x22,)) * 12
    sealed = seal_cookie(key, 0x01020304, nonce, answers[-32:-16], kind, value)
    return {"answers": answers.hex(), "kind": kind.value, "value": value.hex(), "datagram": sealed.hex()}


def cookie() -> Json:
    """Both types that are answered, by both kinds; and the next tries."""
    source = Endpoint("192.0.2.1", 6783)
    maker = CookieMaker(_entropy(0x30))
    value = maker.value(source, 0.0)
    known, unknown = _first(RESPONDER.x25519_public, Liveness(5, 6)), _first(None, None)
    challenge = bytes((0x31,)) * 7 + bytes((0xB1,)) + bytes((0x31,)) * 4
    static_key, bootstrap_key = cookie_static(RESPONDER.x25519_public), MESH.cookie_bootstrap
    return {
        "source": "meshd's own, pinned with protocol version 1: docs/protocol.md, Cookies; by tests/vectors/build.py",
        "secret": _run(0x30).hex(),
        "address": str(source),
        "cookies": [
            _cookie(known, static_key, CookieKind.ADDRESS, value),
            _cookie(unknown, bootstrap_key, CookieKind.ADDRESS, value),
            _cookie(known, static_key, CookieKind.LIVENESS, challenge),
        ],
        "next_try_with_mac2": (known[:-16] + mac2(value, known[:-16])).hex(),
        "next_try_with_challenge": _first(RESPONDER.x25519_public, decode_liveness(challenge)).hex(),
    }


BUILDERS: dict[str, Callable[[], Json]] = {
    "keys.json": keys,
    "sealed.json": sealed,
    "entries.json": entries,
    "link.json": link,
    "cookie.json": cookie,
}

if __name__ == "__main__":
    for name, build in BUILDERS.items():
        (FOLDER / name).write_text(json.dumps(build(), indent=2) + "\n")
