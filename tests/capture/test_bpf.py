"""Filters: what passes, and where one does not parse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.capture.bpf import MAX_FILTER, compile_filter
from meshd.errors import UserError
from tests.engine.reference import arp, tcp, udp

ARP, TCP, UDP = bytes(arp()), bytes(tcp(b"data")), bytes(udp(b"data", 6))


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("arp", [ARP]),
        ("tcp port 5001", [TCP]),
        ("host 10.2.0.1", [ARP, TCP]),
        ("ip6 and udp dst port 5001", [UDP]),
        ("host fd00::2", [UDP]),
        ("ether host 02:00:00:00:00:0a and not arp", [TCP, UDP]),
        ("(arp or icmp) or tcp[tcpflags] & (tcp-ack|tcp-fin) != 0", [ARP, TCP]),
        ("net 10.0.0.0/8 && less 50", [ARP]),
        ("ether broadcast", [ARP]),
        ("port http or icmp6", []),
        ("vlan 5", []),
    ],
)
def test_what_passes(text: str, passing: list[bytes]) -> None:
    passes = compile_filter(text)
    assert [frame for frame in (ARP, TCP, UDP) if passes(frame)] == passing


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("tcp prot 80", "at 'prot' (character 5)"),
        ("tcp port", "at its end: something is missing"),
        ("(tcp or udp", "at its end: something is missing"),
        ("tcp port 80 80", "at '80' (character 13)"),
        ("port 99999", "at '99999' (character 6): illegal port"),
        ("tcp)", "at ')' (character 4)"),
        ("tcp or or udp", "at 'or' (character 8)"),
        ("and tcp", "at 'and' (character 1)"),
        ("tcp port nope", "at 'nope' (character 10): unknown port"),
        ("host beef", "at 'beef' (character 6)"),
        ("host 1.2.3.4.5", "at '1.2.3.4.5' (character 6)"),
        ("tcp " * 600, f"longer than {MAX_FILTER}"),
        ("tcp\0", "cannot be printed"),
        ("tcp or \udcff", "cannot be printed"),
    ],
)
def test_where_it_does_not_parse(text: str, where: str) -> None:
    with pytest.raises(UserError) as refused:
        compile_filter(text)
    assert where in str(refused.value)


_WORDS = ["host", "net", "port", "a-b.c", "1.2.3.4", "1.2.3.4.5", "::1", "beef", "(", ")", "tcp", "!", "&", "x"]


@given(st.one_of(st.text(max_size=30), st.lists(st.sampled_from(_WORDS), max_size=6).map(" ".join)))
def test_nobody_is_asked_for_a_name(text: str) -> None:
    """libpcap would look a host up while the router waits, and say that it is unknown."""
    told = ""
    try:
        compile_filter(text)
    except UserError as error:
        told = str(error)
    assert "unknown host" not in told


@given(st.binary(max_size=80))
def test_any_frame_is_survived(frame: bytes) -> None:
    compile_filter("tcp port 80 or ip6 or vlan 5")(frame)
