"""The parts of the native engine against their Python twins: ciphers, replay window, flow table, numbers."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import Suite, new_aead
from meshd.crypto.replay import WINDOW, ReplayWindow
from meshd.drops import DropReason
from meshd.forward.coalesce import MAX_SERIES
from meshd.forward.engine.asking import MAX_ROUTES
from meshd.forward.engine.native import _core
from meshd.forward.engine.native.engine import NativeEngine
from meshd.forward.engine.python import PUMP_BYTES, PUMP_SECONDS
from meshd.forward.engine.tables import MAX_KEY_DATAGRAMS, MAX_SEND_BYTES, MAX_SEND_DATAGRAMS, Flow, FlowTable
from meshd.forward.entries import MAX_ENTRY_SIZE
from meshd.forward.header import DATA_OVERHEAD
from meshd.forward.relay import RELAY_OVERHEAD
from meshd.forward.slots import FIRST_PEER, LOCAL, drop_slot
from meshd.forward.vnet import VNET_SIZE
from meshd.ids import Mac, SlotId
from meshd.testing.devices import MemoryNetwork
from tests.engine.pair import Side

BACKENDS = _core.backends()
KEY, NONCE = bytes(range(32)), bytes(range(12))

# NIST SP 800-38D validation, gcmEncryptExtIV256, [Keylen 256, IVlen 96, PTlen 128, AADlen 128, Taglen 128], count 0
GCM = (
    "92e11dcdaa866f5ce790fd24501f92509aacf4cb8b1339d50c9c1240935dd08b",
    "ac93a1a6145299bde902f21a",
    "2d71bcfa914e4ac045b2aa60955fad24",
    "1e0889016f67601c8ebea4943bc23ad6",
    "8995ae2e6df3dbf96fac7b7137bae67f" + "eca5aa77d51d4a0a14d9c51e1da474ab",
)
# RFC 8439, 2.8.2
CHACHA_SEALED = (
    "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
    "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
    "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
)
CHACHA = (
    "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
    "070000004041424344454647",
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.".hex(),
    "50515253c0c1c2c3c4c5c6c7",
    CHACHA_SEALED,
)


def test_both_backends_are_here() -> None:
    """Of libipsec-mb only x86-64 has one; `make test` installs it there."""
    assert "openssl" in BACKENDS
    assert BACKENDS[0] == ("ipsec-mb" if _core.cpu_has_aes() else "openssl")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("suite", "row"), [(Suite.AES_256_GCM, GCM), (Suite.CHACHA20_POLY1305, CHACHA)])
def test_published_vectors(backend: str, suite: Suite, row: tuple[str, ...]) -> None:
    key, nonce, plain, aad, sealed = map(bytes.fromhex, row)
    aead = _core.Aead(suite, key, backend)
    assert aead.backend == backend
    assert aead.seal(nonce, plain, aad) == sealed
    assert aead.open(nonce, sealed, aad) == plain


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("suite", list(Suite))
@given(
    st.one_of(st.integers(0, 300), st.sampled_from([1399, 1400, 1408, 16_000])),
    st.sampled_from([0, 1, 15, 16, 17, 40]),
    st.binary(min_size=12, max_size=12),
)
def test_as_the_reference_seals(backend: str, suite: Suite, size: int, aad_size: int, nonce: bytes) -> None:
    plain, aad = bytes(number & 255 for number in range(size)), bytes(aad_size)
    mine, reference = _core.Aead(suite, KEY, backend), new_aead(suite, KEY)
    sealed = reference.seal(nonce, plain, aad)
    assert mine.seal(nonce, plain, aad) == sealed
    assert mine.open(nonce, memoryview(sealed), bytearray(aad)) == plain


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("suite", list(Suite))
def test_what_is_not_authentic_is_refused(backend: str, suite: Suite) -> None:
    aead = _core.Aead(suite, KEY, backend)
    sealed = aead.seal(NONCE, b"plain text", b"header")
    for at in range(len(sealed)):
        bad = bytearray(sealed)
        bad[at] ^= 1
        with pytest.raises(InvalidTag):
            aead.open(NONCE, bad, b"header")
    for parts in ((NONCE, sealed, b"Header"), (bytes(12), sealed, b"header"), (NONCE, sealed[:-1], b"header")):
        with pytest.raises(InvalidTag):
            aead.open(*parts)
    for size in range(16):
        with pytest.raises(InvalidTag):
            aead.open(NONCE, bytes(size), b"")
    assert aead.open(NONCE, sealed, b"header") == b"plain text"


def test_what_is_no_key_or_nonce_is_refused() -> None:
    for suite, key in ((1, bytes(31)), (0, KEY), (4, KEY)):
        with pytest.raises(ValueError, match="suite"):
            _core.Aead(suite, key)
    with pytest.raises(RuntimeError, match="no such"):
        _core.Aead(1, KEY, "rot13")
    for wrong in (bytes(11), bytes(13)):
        with pytest.raises(ValueError, match="12 bytes"):
            _core.Aead(1, KEY).seal(wrong, b"", b"")


def test_numbers_are_the_python_engines() -> None:
    assert (_core.MAX_SEND_DATAGRAMS, _core.MAX_SEND_BYTES) == (MAX_SEND_DATAGRAMS, MAX_SEND_BYTES)
    assert (PUMP_BYTES, PUMP_SECONDS * 1e9) == (_core.PUMP_BYTES, _core.PUMP_NANOSECONDS)
    assert (_core.MAX_KEY_DATAGRAMS, _core.MAX_ENTRY_SIZE) == (MAX_KEY_DATAGRAMS, MAX_ENTRY_SIZE)
    assert (_core.DATA_OVERHEAD, _core.MAX_SERIES, _core.REPLAY_WINDOW) == (DATA_OVERHEAD, MAX_SERIES, WINDOW)
    assert (_core.RELAY_OVERHEAD, _core.MAX_ROUTES) == (RELAY_OVERHEAD, MAX_ROUTES)
    for name, value in _core.DROPS.items():
        assert DropReason[name] == value


steps = st.one_of(st.integers(-9000, 40), st.integers(40, 20_000))


@given(st.lists(steps, max_size=60), st.lists(st.integers(0, 300), max_size=3))
def test_the_window_is_its_twin(steps: list[int], runs: list[int]) -> None:
    mine, reference = _core.ReplayWindow(), ReplayWindow()
    for number, step in enumerate(steps):
        counter = max(0, reference.head + step)
        verdict = reference.check(counter)
        assert mine.check(counter) is verdict
        if verdict is None:
            mine.commit(counter)
            reference.commit(counter)
        if number < len(runs):
            end = reference.head + 1 + runs[number]
            mine.commit_run(end)
            reference.commit_run(end)
        for name in ("head", "received", "late", "duplicate", "too_old", "lost"):
            assert getattr(mine, name) == getattr(reference, name), name


def test_the_window_holds_to_the_last_counter() -> None:
    window = _core.ReplayWindow()
    last = (1 << 64) - 1
    window.commit(last)
    assert window.head == last
    assert window.check(last) is DropReason.REPLAYED
    assert window.check(last - WINDOW) is DropReason.TOO_OLD
    assert window.check(0) is DropReason.TOO_OLD
    assert window.check(last - WINDOW + 1) is None
    for wrong in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            window.check(wrong)


def key_of(number: int) -> bytes:
    return b"\x02" * 6 + number.to_bytes(6, "big")


def has_mac(mac: bytes, key: bytes | tuple[int, bytes]) -> bool:
    addresses = key if isinstance(key, bytes) else key[1]
    return mac in (addresses[:6], addresses[6:])


operations = st.lists(st.tuples(st.sampled_from("agguv"), st.integers(0, 9), st.integers(0, 2)), max_size=60)


@given(operations, st.integers(1, 6))
def test_the_flow_table_is_its_twin(operations: list[tuple[str, int, int]], limit: int) -> None:
    mine, reference = _core.FlowTable(limit), FlowTable[bytes | tuple[int, bytes]](limit)
    for operation, number, slot in operations:
        key = (FIRST_PEER + slot, key_of(number)) if slot else key_of(number)
        if operation == "a":
            flow = Flow(LOCAL, None)
            if reference.get(key) is None:
                reference.add(key, flow)
                mine.add(key, flow)
        elif operation == "g":
            assert mine.get(key) is reference.get(key)
        elif operation == "u" and reference.get(key) is not None:
            reference.use(key)
            mine.use(key)
        elif operation == "v":
            mac = key_of(number)[6:]
            expected = sum(has_mac(mac, key) for key in reference.flows)
            assert mine.void_mac(mac) == reference.void_mac(mac) == expected
        assert list(mine.flows.items()) == list(reference.flows.items())
        assert len(mine) == len(reference.flows)
    assert mine.void_mac(None) == len(reference.flows)
    assert len(mine) == 0


def test_a_full_sized_table_grows_and_shrinks() -> None:
    table, flow = _core.FlowTable(5000), Flow(drop_slot(DropReason.LOCAL), None)
    for number in range(12_000):
        table.add(key_of(number), flow)
    assert len(table) == 5000
    assert table.get(key_of(6999)) is None
    assert table.get(key_of(7000)) is flow
    assert table.void_mac(Mac(b"\x02" * 6)) == 5000


def test_what_is_no_key_of_a_flow_is_refused() -> None:
    table = _core.FlowTable(3)
    for key in (b"", bytes(11), bytes(13)):
        with pytest.raises(ValueError, match="12 bytes"):
            table.get(key)
    text: Any = (1, "text")
    no_flow: Any = object()
    with pytest.raises(TypeError):
        table.get(text)
    with pytest.raises(AttributeError):
        table.add(bytes(12), no_flow)
    assert len(table) == 0
    with pytest.raises(ValueError, match="6 bytes"):
        table.void_mac(bytes(5))


def test_core_refuses_what_is_not_its_own() -> None:
    outbound, inbound = _core.FlowTable(3), _core.FlowTable(3)
    core = _core.Core(outbound, inbound)
    no_table: Any = object()
    with pytest.raises(TypeError):
        _core.Core(outbound, no_table)
    with pytest.raises(TypeError):
        _core.Peer()
    peer = core.make_peer(FIRST_PEER)
    key = _core.SealKey(_core.Aead(1, KEY), bytes(8), bytes(8))
    with pytest.raises(ValueError, match="no such port"):
        core.open_peer(peer, key, 0, "10.0.0.1", 1, 1472, 1280)
    with pytest.raises(ValueError, match="8 bytes"):
        _core.SealKey(_core.Aead(1, KEY), bytes(7), bytes(8))
    assert not peer.open
    assert core.drop_key(5) == 0
    assert SlotId(FIRST_PEER) == 256


class Native(Side):
    engine_type = NativeEngine


@pytest.mark.parametrize("size", [1472, 9000, 20_000])
def test_python_does_not_see_an_aggregate_that_is_full_of_the_smallest_frames(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the largest paths it has a thousand of them."""
    network = MemoryNetwork()
    a, b = Native(network, 1), Native(network, 2)
    a.know(b, FIRST_PEER, KEY)
    a.engine.set_path(FIRST_PEER, b.endpoint, size, aggregate_limit=size)
    smallest = bytes(VNET_SIZE) + bytes(12) + b"\x88\xb5"
    a.send(smallest)
    assert b.receive() == [smallest]
    seen: list[object] = []
    monkeypatch.setattr(NativeEngine, "native_opened", lambda *what: seen.append(what))
    a.send(*[smallest] * 2000)
    assert b.receive() == [smallest] * 2000
    assert max(map(len, a.port.sent[1])) > min(size, MAX_ENTRY_SIZE) - len(smallest)
    assert seen == []
