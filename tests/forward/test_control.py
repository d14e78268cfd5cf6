"""Kind-1 bodies: pinned vectors, every prefix, trailing bytes, and anything at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import DecodeError, LocalProtocolError
from meshd.forward.control import (
    MAX_CONTROL,
    Bye,
    Control,
    Echo,
    Pad,
    Probe,
    SizeEcho,
    SizeProbe,
    decode_control,
    encode_control,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "control.json").read_text())
TYPES: dict[str, type[Control]] = {kind.__name__: kind for kind in (Probe, Echo, Pad, Bye, SizeProbe, SizeEcho)}

U8, U32, U64 = st.integers(0, 2**8 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
CONTROLS = st.one_of(
    st.builds(Probe, U32, U64, U32),
    st.builds(Echo, U32, U64, U32),
    st.builds(Pad, st.integers(1, MAX_CONTROL)),
    st.builds(Bye, U8),
    st.builds(SizeProbe, U32, st.integers(5, MAX_CONTROL)),
    st.builds(SizeEcho, U32, st.integers(5, MAX_CONTROL)),
)


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda v: v["name"])
def test_vector(vector: dict[str, Any]) -> None:
    wire = bytes.fromhex(vector["hex"])
    value = TYPES[vector["type"]](*vector["fields"])
    assert encode_control(value) == wire
    decoded = decode_control(memoryview(wire))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda v: v["name"])
def test_bad_vector(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        decode_control(bytes.fromhex(vector["hex"]))


def test_probe_and_echo_are_small() -> None:
    assert len(encode_control(Probe(1, 2, 3))) == len(encode_control(Echo(1, 2, 3))) == 17


@pytest.mark.parametrize("value", [Probe(1, 2, 3), Echo(1, 2, 3), Bye(1), SizeEcho(1, 1438)])
def test_every_prefix_and_a_trailing_byte_are_refused(value: Control) -> None:
    wire = encode_control(value)
    for size in range(len(wire)):
        with pytest.raises(DecodeError):
            decode_control(wire[:size])
    with pytest.raises(DecodeError):
        decode_control(wire + b"\x00")


@pytest.mark.parametrize(
    "value",
    [
        Probe(2**32, 0, 0),
        Probe(-1, 0, 0),
        Echo(0, 2**64, 0),
        Echo(0, 0, 2**32),
        Pad(0),
        Pad(MAX_CONTROL + 1),
        Bye(256),
        Bye(-1),
        SizeProbe(2**32, 5),
        SizeProbe(0, 4),
        SizeEcho(0, 4),
        SizeEcho(-1, 5),
        SizeEcho(0, MAX_CONTROL + 1),
    ],
)
def test_what_no_field_can_hold_is_our_own_fault(value: Control) -> None:
    with pytest.raises(LocalProtocolError):
        encode_control(value)


def test_giant_size_probe() -> None:
    assert decode_control(encode_control(SizeProbe(1, MAX_CONTROL))) == SizeProbe(1, MAX_CONTROL)
    with pytest.raises(DecodeError):
        decode_control(b"\x06" + bytes(MAX_CONTROL))


def test_giant_pad() -> None:
    assert decode_control(encode_control(Pad(MAX_CONTROL))) == Pad(MAX_CONTROL)
    with pytest.raises(DecodeError):
        decode_control(b"\x03" + bytes(MAX_CONTROL))


@given(CONTROLS)
def test_round_trip(value: Control) -> None:
    decoded = decode_control(encode_control(value))
    assert decoded == value
    assert type(decoded) is type(value)


@given(st.binary(max_size=40))
def test_anything_is_refused_or_a_fix_point(data: bytes) -> None:
    try:
        value = decode_control(data)
    except DecodeError:
        return
    assert encode_control(value) == data
