"""Targets that have a state: hosts, engines, links. Inputs are given what gets them past the first check: mac1, a seal, a length.

Each maker sets up one machine that lives through all inputs, so that damage done by one shows in a later one; a link that ended is
made anew.
"""

from __future__ import annotations

import atexit
import itertools
import sqlite3
import tempfile
from collections.abc import Callable
from hashlib import blake2s
from pathlib import Path
from random import Random
from typing import Any

import msgpack

from meshd.crypto.aead import Suite, new_aead, nonce
from meshd.crypto.cookie import open_cookie, seal_cookie
from meshd.crypto.wire import mac1_static
from meshd.daemon.options import read_options
from meshd.daemon.state import State
from meshd.forward.engine.tables import MAX_WAITING_FRAMES
from meshd.forward.header import DataHeader, encode_data_header
from meshd.gossip import messages
from meshd.gossip.framing import frame
from meshd.ids import Endpoint
from tests.crypto.world import MESH, World, pair
from tests.engine.pair import KEY_AB, PEER, Pair
from tests.fuzz.mutate import tree_like
from tests.gossip import links

__all__ = [
    "ANSWERS",
    "OPENINGS",
    "OPTIONS",
    "STORED",
    "answers",
    "cookies",
    "engine_captures",
    "engine_datagrams",
    "engine_plaintexts",
    "launch_options",
    "link_bytes",
    "link_messages",
    "message_trees",
    "openings",
    "sessions",
    "stored",
]

Feed = Callable[[bytes], object]
SOURCES = [Endpoint(f"10.{number >> 8}.{number & 255}.1", 6783) for number in range(4000)]


# hosts


def _wire() -> dict[int, bytes]:
    """One true datagram of each handshake type, from alice to bob or back."""
    found = {}
    for how in ("connect", "bootstrap"):
        world, alice, bob = pair()
        if how == "connect":
            alice.connect(bob)
        else:
            alice.bootstrap(bob.endpoint)
        world.run(0.1)
        found.update({datagram[0] & 15: datagram for _, _, datagram in world.wire})
    return found


_WIRE = _wire()
OPENINGS = [_WIRE[1], _WIRE[5]]
ANSWERS = [_WIRE[2], _WIRE[6], _WIRE[7]]


def _host() -> tuple[World, Feed]:
    world, _, bob = pair()
    sources = itertools.cycle(SOURCES)

    def feed(data: bytes) -> None:
        world.now += 0.003  # never a flood
        bob.sessions.receive(data, next(sources), world.now)
        bob.sessions.poll_transmit()
        while bob.sessions.next_event() is not None:
            pass
        bob.sessions.handle_timer(world.now)

    return world, feed


def sessions() -> Feed:
    return _host()[1]


def _signed(data: bytes, key: bytes) -> bytes:
    """The same with the length of its type and a right mac1."""
    size = {1: 148, 2: 92, 5: 237, 6: 237, 7: 205}.get(data[0] & 15 if data else 0)
    if size is None:
        return data
    covered = data.ljust(size, b"\0")[: size - 32]
    return covered + blake2s(covered, key=key, digest_size=16).digest() + bytes(16)


def openings() -> Feed:
    world, feed = _host()
    static = next(host for host in world.hosts.values() if host.name == "bob").identity.x25519_public

    def signed(data: bytes) -> None:
        kind = data[0] & 15 if data else 0
        feed(_signed(data, mac1_static(static) if kind in (1, 2) else MESH.mac1_bootstrap))

    return signed


def answers() -> Feed:
    """Bob waits for a type 2, a type 6 and a type 7 all the time."""
    world, alice, bob = pair()
    sources = itertools.cycle(SOURCES)
    count = itertools.count()

    def feed(data: bytes) -> None:
        world.now += 0.005
        if next(count) % 1000 == 0:
            bob.sessions.connect(alice.id, alice.identity.x25519_public, [alice.endpoint], world.now)
            bob.sessions.bootstrap(alice.endpoint, world.now)
            bob.sessions.receive(OPENINGS[1], alice.endpoint, world.now)
        kind = data[0] & 15 if data else 0
        waiting = [index.to_bytes(4, "little") for index in list(bob.sessions._table.indices)]
        aimed = data[:8] + waiting[len(data) % len(waiting)] + data[12:] if waiting else data
        key = mac1_static(bob.identity.x25519_public) if kind == 2 else MESH.mac1_bootstrap
        bob.sessions.receive(_signed(aimed, key), next(sources), world.now)
        bob.sessions.poll_transmit()
        while bob.sessions.next_event() is not None:
            pass
        bob.sessions.handle_timer(world.now)

    return feed


def cookies() -> Feed:
    def feed(data: bytes) -> None:
        any_byte: Any = data[0] if data else 0
        sealed = seal_cookie(bytes(32), 1, bytes(12), bytes(16), any_byte, data[1:16])
        open_cookie(bytes(32), sealed, bytes(16))

    return feed


# engines


def engine_datagrams() -> Feed:
    pair = Pair()

    def feed(data: bytes) -> None:
        pair.b.port.deliver(data, pair.a.endpoint)
        pair.b.receive()
        _clear(pair)

    return feed


def engine_plaintexts() -> Feed:
    """Sealed as a member would: everything behind the AEAD is reached."""
    pair, aead, counters = Pair(), new_aead(Suite.AES_256_GCM, KEY_AB), itertools.count()
    pair.b.upcalls.children[pair.a.origin] = []
    index = pair.a.index_of(PEER)

    def feed(data: bytes) -> None:
        counter = next(counters)
        header = encode_data_header(DataHeader(counter & 1, 0, index, counter))
        pair.b.port.deliver(header + aead.seal(nonce(counter), data, header), pair.a.endpoint)
        pair.b.receive()
        _clear(pair)

    return feed


def engine_captures() -> Feed:
    pair = Pair()

    def feed(data: bytes) -> None:
        if data:
            pair.a.send(data)
            pair.b.receive()
            _clear(pair)

    return feed


def _clear(pair: Pair) -> None:
    """What the scripted upcalls and memory ports have kept."""
    for side in (pair.a, pair.b):
        side.frames.take()
        side.port.sent.clear()
        upcalls = side.upcalls
        for kept in (upcalls.controls, upcalls.handshakes, upcalls.asked_inbound, upcalls.asked_outbound):
            kept.clear()
        assert len(upcalls.wanted) <= MAX_WAITING_FRAMES


# links


def link_bytes() -> Feed:
    """A stranger's bytes, to an acceptor that has just accepted."""
    host = links.Host("b")

    def feed(data: bytes) -> None:
        link = host.accept()
        link.receive(data, 0.0)
        link.receive(frame(data[:237]), 0.0)
        while link.next_event() is not None:
            pass

    return feed


def link_messages() -> Feed:
    """A member's messages, sealed, to a link that is ready; their inside changed too."""
    a, b = links.Host("a"), links.Host("b")
    a.knows(b)
    b.knows(a)
    reshape, rng = _reshape, Random(3)
    ready: list[links.Pair] = []

    def feed(data: bytes) -> None:
        if not ready or ready[0].acceptor.closed():
            ready[:] = [links.Pair(a.dial(), b.accept())]
            ready[0].settle()
        dialler, acceptor = ready[0].dialler, ready[0].acceptor
        assert dialler._send is not None
        acceptor.receive(frame(dialler._send.seal(reshape(data, rng) if rng.random() < 0.5 else data)), 0.0)
        acceptor.data_to_send()
        while acceptor.next_event() is not None:
            pass
        if acceptor._next_receive is not None:  # it was told to rekey
            ready.clear()

    return feed


def message_trees() -> Feed:
    rng = Random(4)
    return lambda data: messages.decode_message(_reshape(data, rng))


def _reshape(data: bytes, rng: Random) -> bytes:
    """A message is a number and msgpack: change what the latter holds."""
    try:
        tree = msgpack.unpackb(data[1:], use_list=True, strict_map_key=False)
        return data[:1] + bytes(msgpack.packb(tree_like(rng, tree)))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return data


# files


STORED = [
    b'{"id": "c1", "name": "web", "mac": "02:00:00:00:00:0a", "ifname": "eth1", "host_end": "v1", "addresses": ["10.0.1.5/24"]}',
    b'{"id": "c1", "name": "web", "mac": "02:00:00:00:00:0a", "ifname": "", "host_end": "", "addresses": [], "namespace": [4, 7]}',
    b"10.0.0.1:6783 [fd00::1]:6783",
]
OPTIONS = [b'{"peers": ["host2"], "port": 6783, "nickname": "a"}', b"{}", b"[]"]


def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="meshd-fuzz-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def stored() -> Feed:
    """Rows that somebody else has changed: left out, each with a line of log."""
    path = _folder() / "state.db"
    State(path).close()
    state = State(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")

    def feed(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        connection.execute("INSERT OR REPLACE INTO attachments VALUES ('c1', ?)", (text,))
        connection.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?)", ("00" * 16, text))
        state.attachments()
        state.hosts()

    return feed


def launch_options() -> Feed:
    folder = _folder()

    def feed(data: bytes) -> None:
        (folder / "launch.json").write_bytes(data)
        read_options(folder)

    return feed
