"""What is fed: one line for each decoder in TARGETS, by the name of what it decodes.

A target is a corpus of good inputs and a *maker*: a function that sets up what is needed and returns the function to feed. That
one may raise DecodeError (a peer's bytes) or UserError (a user's line) and nothing else. `cost`: one in so many inputs is fed,
where each takes long.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import msgpack

from meshd.capture.link_watcher import parse_link_messages
from meshd.control import api, inputs
from meshd.crypto.cookie import cookie_receiver, open_cookie
from meshd.crypto.identity import Identity, verify_binding
from meshd.crypto.meshkey import MeshKey
from meshd.drops import DropCounters
from meshd.errors import DecodeError
from meshd.forward.control import decode_control, encode_control
from meshd.forward.entries import EntryKind, decode_entries, decode_flood
from meshd.forward.ethernet import parse_headers
from meshd.forward.fragment import MAX_FRAGMENT_BYTES, Reassembly, decode_fragment
from meshd.forward.header import decode_data_header
from meshd.forward.loops import LoopWatch
from meshd.forward.membership import parse_membership
from meshd.forward.neighbours import parse_question
from meshd.forward.query import (
    NO_HOP,
    PathQuery,
    PathReport,
    Way,
    decode_query,
    decode_report,
    encode_query,
    encode_report,
)
from meshd.forward.relay import decode_relay_header
from meshd.forward.toobig import too_big
from meshd.forward.vnet import decode_vnet
from meshd.gossip import messages, targets
from meshd.gossip.framing import FrameReader
from meshd.gossip.records import decode_floor
from meshd.gossip.values import HOST_KEY, LINKS_KEY, attachment_key, decode_value, learned_key
from meshd.ids import HostId, Mac, ShortId, parse_endpoint, parse_mac
from tests.fuzz import machines
from tests.fuzz.corpora import frames, texts, vectors
from tests.fuzz.groups import memberships, with_checksum
from tests.fuzz.mutate import tree_like

__all__ = ["TARGETS", "Target"]

Feed = Callable[[bytes], object]


class Target(NamedTuple):
    corpus: Sequence[bytes]
    make: Callable[[], Feed]
    cost: int = 1


def plain(feed: Feed) -> Callable[[], Feed]:
    """A decoder that needs nothing."""
    return lambda: feed


def same(decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Callable[[], Feed]:
    """What decodes is written again as it was: nothing in it went unseen."""

    def feed(data: bytes) -> None:
        assert encode(decode(data)) == data

    return lambda: feed


def text(parse: Callable[[str], object]) -> Callable[[], Feed]:
    return lambda: lambda data: parse(data.decode("utf-8", "surrogateescape"))


def value_error(parse: Callable[[str], object]) -> Callable[[], Feed]:
    """For parsers whose contract is ValueError."""

    def feed(data: bytes) -> None:
        try:
            parse(data.decode("utf-8", "replace"))
        except ValueError as error:
            raise DecodeError(str(error)) from None

    return lambda: feed


def msgpack_tree(feed: Feed) -> Callable[[], Feed]:
    """Changes the inside of what msgpack holds; bytes that are no msgpack are fed as they are."""
    rng = Random(1)

    def reshape(data: bytes) -> None:
        try:
            tree = msgpack.unpackb(data, use_list=True, strict_map_key=False)
            data = msgpack.packb(tree_like(rng, tree))
        except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
            pass
        feed(data)

    return lambda: reshape


def json_request(read: Callable[[dict[str, Any]], object]) -> Callable[[], Feed]:
    rng = Random(2)

    def feed(data: bytes) -> None:
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = {}
        body = tree_like(rng, body)
        if isinstance(body, dict):
            read({str(key): value for key, value in body.items()})

    return lambda: feed


def every_value(data: bytes) -> None:
    """A record's value, under a key of each kind."""
    refused: DecodeError | None = None
    for key in (HOST_KEY, LINKS_KEY, attachment_key("c" * 64), learned_key(Mac(b"\2" * 6)), b"?"):
        try:
            decode_value(key, data)
        except DecodeError as error:
            refused = error
    if refused is not None:
        raise refused


def stream(data: bytes) -> None:
    reader = FrameReader(lambda size: 0 < size < 1000)
    for at in range(0, len(data), 7):
        reader.feed(data[at : at + 7])
        while reader.next() is not None:
            pass


def cookie(data: bytes) -> None:
    cookie_receiver(data)
    open_cookie(bytes(32), data, bytes(16))


def pieces() -> Feed:
    """One peer's pieces, one after the other; what is held stays within its bounds."""
    reassembly: Reassembly[str] = Reassembly(DropCounters())
    clock = itertools.count()

    def feed(data: bytes) -> None:
        reassembly.take("peer", len(data) & 1, memoryview(data), bool(len(data) & 2), next(clock) / 100)
        assert reassembly.size <= MAX_FRAGMENT_BYTES

    return feed


PIECES = [entry[2:] for entry in vectors("entries", "fragments") if entry[1] >> 6 == EntryKind.FRAGMENT]
UNICAST = [b"\2\0\0\0\0\x0b" + frame[6:20] + b"\x40" + frame[21:] for frame in frames()]  # and DF, where it is IPv4
ATTACH = [b'{"container": "web1", "addresses": ["10.0.1.5/24"], "ifname": "ethwe"}', b'{"container": "web1"}']
CONNECT = [b'{"peers": ["host2", "10.0.0.2:6783"], "replace": true}', b'{"peers": []}']
IDENTITIES = vectors("keys", "initiator")
KEY_TEXTS = [b"mk1-" + b"a" * 88, *(MeshKey.generate(Random(n).randbytes).to_text().encode() for n in range(3))]
DATAGRAMS = vectors("datagram") + vectors("crypto_handshake") + vectors("relay") + vectors("cookie")
VALUES = vectors("gossip", "values")
MESSAGES = vectors("gossip", "messages")

QUERIES = [
    encode_query(PathQuery(7, ShortId(b"12345678"))),
    encode_report(PathReport(7, Way.NONE, NO_HOP, None, 0, 0)),
    encode_report(PathReport(8, Way.DIRECT, ShortId(b"12345678"), 400, 1472, 0)),
]
LOOPS = LoopWatch(bytes(32), HostId(bytes(16)), 1, Mac(b"\2" * 6), 0.0)
PROBES = [probe for now in (2.0, 4.0) if (probe := LOOPS.probe(now))]

TARGETS: dict[str, Target] = {
    # before authentication
    "any datagram at a host": Target(DATAGRAMS, machines.sessions),
    "type 1 behind a right mac1": Target(machines.OPENINGS, machines.openings, cost=10),
    "types 2, 6, 7 behind a right mac1": Target(machines.ANSWERS, machines.answers, cost=10),
    "a cookie": Target(vectors("cookie"), plain(cookie)),
    "a cookie's inside": Target([bytes(16), b"\1" * 16, b"\2" * 16], machines.cookies),
    "header of type 4": Target(DATAGRAMS, plain(decode_data_header)),
    "header of type 8": Target(vectors("relay"), plain(decode_relay_header)),
    "any datagram at an engine": Target(DATAGRAMS, machines.engine_datagrams),
    "binding": Target(IDENTITIES, plain(lambda data: verify_binding(data, bytes(16), bytes(32), lambda *_: True))),
    "stream framing": Target(vectors("link"), plain(stream)),
    "bytes at a control link": Target(vectors("link"), machines.link_bytes, cost=3),
    # inside an authentic datagram
    "entries": Target(vectors("entries"), plain(lambda data: list(decode_entries(data)))),
    "flood": Target(vectors("entries", "floods"), plain(lambda data: decode_flood(memoryview(data)))),
    "piece of an entry": Target(PIECES, plain(lambda data: decode_fragment(memoryview(data)))),
    "pieces of entries": Target(PIECES, pieces),
    "path query": Target(QUERIES, same(decode_query, encode_query)),
    "path report": Target(QUERIES, same(decode_report, encode_report)),
    "control entry": Target(vectors("control"), same(decode_control, encode_control)),
    "plaintext at an engine": Target(vectors("entries") + vectors("control") + frames(), machines.engine_plaintexts),
    "inner frame": Target(frames(), plain(parse_headers)),
    "frame too large for its path": Target(UNICAST, plain(lambda data: too_big(data.ljust(14, b"\0"), 14))),
    "question for an address": Target(frames(), plain(parse_question)),
    "question for an address, checksum right": Target(
        frames(), plain(lambda data: parse_question(with_checksum(data)))
    ),
    "IGMP and MLD": Target(memberships(), plain(parse_membership)),
    "IGMP and MLD, checksum right": Target(memberships(), plain(lambda data: parse_membership(with_checksum(data)))),
    "loop probe": Target(PROBES, plain(lambda data: LOOPS.captured(data, 1.0))),
    # from the TAP
    "vnet header": Target([bytes(10), *frames()], plain(lambda data: decode_vnet(data.ljust(10, b"\0")))),
    "captured frame at an engine": Target([bytes(10) + frame for frame in frames()], machines.engine_captures),
    # on a control link
    "gossip message": Target(MESSAGES, plain(messages.decode_message)),
    "gossip message, inside": Target(MESSAGES, machines.message_trees),
    "message at a ready link": Target(MESSAGES, machines.link_messages, cost=5),
    "record value": Target(VALUES, plain(every_value)),
    "record value, inside": Target(VALUES, msgpack_tree(every_value)),
    "floor": Target(VALUES, plain(decode_floor)),
    # from users and files
    "mesh key": Target(KEY_TEXTS, text(MeshKey.parse)),
    "stored identity": Target(IDENTITIES, plain(Identity.from_bytes)),
    "stored hosts and attachments": Target(machines.STORED, machines.stored, cost=10),
    "launch options": Target(machines.OPTIONS, machines.launch_options, cost=20),
    "attach request": Target(ATTACH, json_request(api.AttachRequest.from_json)),
    "detach request": Target(ATTACH, json_request(api.DetachRequest.from_json)),
    "connect request": Target(CONNECT, json_request(api.ConnectRequest.from_json)),
    "forget request": Target(CONNECT, json_request(api.ForgetRequest.from_json)),
    "address with prefix": Target(texts(), text(inputs.parse_cidr)),
    "peer as typed": Target(texts(), text(inputs.parse_target)),
    "peer to dial": Target(texts(), text(lambda peer: targets.parse_target(peer, 6783))),
    "container as typed": Target(texts(), text(inputs.check_container)),
    "interface as typed": Target(texts(), text(inputs.check_ifname)),
    "endpoint": Target(texts(), value_error(parse_endpoint)),
    "MAC": Target(texts(), value_error(parse_mac)),
    # from the kernel
    "link messages": Target([bytes(32), *frames()], plain(lambda data: list(parse_link_messages(data)))),
}
