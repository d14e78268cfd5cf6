"""Addresses and peers as users type them: what is taken, and that every refusal says what to type."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.control.inputs import Target, parse_cidr, parse_target
from meshd.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.1.5/24", "10.0.1.5/24"),
        ("ip:10.0.1.5/24", "10.0.1.5/24"),
        (" 10.0.1.5/24 ", "10.0.1.5/24"),
        ("10.0.1.0/31", "10.0.1.0/31"),  # RFC 3021: both addresses are hosts
        ("10.0.1.1/31", "10.0.1.1/31"),
        ("10.0.1.0/32", "10.0.1.0/32"),
        ("10.0.0.255/23", "10.0.0.255/23"),  # inside the subnet, not its last
        ("169.254.1.2/16", "169.254.1.2/16"),
        ("FD00:0::5/64", "fd00::5/64"),
        ("fd00::/127", "fd00::/127"),  # RFC 6164
        ("fe80::1/64", "fe80::1/64"),
    ],
)
def test_a_host_address_with_its_prefix_is_taken(text: str, expected: str) -> None:
    assert parse_cidr(text) == expected


_GIVE = "; give an address with its prefix length: 10.0.1.5/24"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.1.5", "address '10.0.1.5' has no prefix length; write it like 10.0.1.5/24"),
        ("fd00::5", "address 'fd00::5' has no prefix length; write it like fd00::5/64"),
        ("10.0.1/24", "malformed address '10.0.1/24'; write it like 10.0.1.5/24"),
        ("10.0.1.300/24", "malformed address '10.0.1.300/24'; write it like 10.0.1.5/24"),
        ("010.0.1.3/24", "malformed address '010.0.1.3/24'; write it like 10.0.1.5/24"),
        ("", "malformed address ''; write it like 10.0.1.5/24"),
        ("/24", "malformed address '/24'; write it like 10.0.1.5/24"),
        ("fd00::g/64", "malformed address 'fd00::g/64'; write it like fd00::5/64"),
        ("10.0.1.5/33", "prefix length of '10.0.1.5/33' is not a number from 1 to 32; write it like 10.0.1.5/24"),
        ("10.0.1.5/", "prefix length of '10.0.1.5/' is not a number from 1 to 32; write it like 10.0.1.5/24"),
        ("10.0.1.5/-1", "prefix length of '10.0.1.5/-1' is not a number from 1 to 32; write it like 10.0.1.5/24"),
        (
            "10.0.1.5/255.0.0.0",
            "prefix length of '10.0.1.5/255.0.0.0' is not a number from 1 to 32; write it like 10.0.1.5/24",
        ),
        ("10.0.1.5/²", "prefix length of '10.0.1.5/²' is not a number from 1 to 32; write it like 10.0.1.5/24"),
        ("fd00::5/129", "prefix length of 'fd00::5/129' is not a number from 1 to 128; write it like fd00::5/64"),
        ("10.0.1.5/0", "'10.0.1.5/0' would make every address local; write it like 10.0.1.5/24"),
        ("10.0.1.0/24", "'10.0.1.0/24' cannot be given to a container: it is the network address of 10.0.1.0/24"),
        ("10.0.1.255/24", "'10.0.1.255/24' cannot be given to a container: it is the broadcast address of 10.0.1.0/24"),
        ("10.0.1.3/30", "'10.0.1.3/30' cannot be given to a container: it is the broadcast address of 10.0.1.0/30"),
        ("0.0.0.0/8", "'0.0.0.0/8' cannot be given to a container: it stands for no address"),
        ("::/64", "'::/64' cannot be given to a container: it stands for no address"),
        ("0.1.2.3/8", "'0.1.2.3/8' cannot be given to a container: it is a reserved address"),
        ("255.255.255.255/32", "'255.255.255.255/32' cannot be given to a container: it is a reserved address"),
        ("224.0.0.1/24", "'224.0.0.1/24' cannot be given to a container: it is a multicast address"),
        ("ff02::1/64", "'ff02::1/64' cannot be given to a container: it is a multicast address"),
        ("127.0.0.1/8", "'127.0.0.1/8' cannot be given to a container: it is a loopback address"),
        ("::1/128", "'::1/128' cannot be given to a container: it is a loopback address"),
        ("fd00::/64", "'fd00::/64' cannot be given to a container: it is the router anycast address of fd00::/64"),
        ("::ffff:10.0.0.1/96", "'::ffff:10.0.0.1/96' cannot be given to a container: write the IPv4 address, 10.0.0.1"),
        (
            "fe80::1%eth0/64",
            "malformed address 'fe80::1%eth0/64': it must not name an interface; write it like fd00::5/64",
        ),
        (
            "net:default",
            "'net:default' asks for an automatic address, which this meshd does not give out yet" + _GIVE,
        ),
    ],
)
def test_any_other_address_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_cidr(text)
    assert str(caught.value) == message


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_taken_address_is_usable_and_canonical(address: ipaddress.IPv4Address, length: int) -> None:
    try:
        taken = parse_cidr(f"{address}/{length}")
    except UserError:
        return
    interface = ipaddress.ip_interface(taken)
    assert (interface.ip, interface.network.prefixlen) == (address, length)
    assert parse_cidr(taken) == taken
    if length < 31:
        assert interface.ip not in (interface.network.network_address, interface.network.broadcast_address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host2", Target("host2", None)),
        ("host2:99", Target("host2", 99)),
        ("a_b.Example.COM.", Target("a_b.Example.COM.", None)),
        ("10.0.0.2", Target("10.0.0.2", None)),
        ("10.0.0.2:6783", Target("10.0.0.2", 6783)),
        ("fd00::2", Target("fd00::2", None)),
        ("[fd00::2]", Target("fd00::2", None)),
        ("[FD00::2]:65535", Target("fd00::2", 65535)),
        ("3com.example", Target("3com.example", None)),
        ("fe80::2%eth0", Target("fe80::2%eth0", None)),
        ("[fe80::2%eth0]:99", Target("fe80::2%eth0", 99)),
    ],
)
def test_a_peer_is_a_name_or_an_address_with_an_optional_port(text: str, expected: Target) -> None:
    assert parse_target(text) == expected
    assert parse_target(str(expected)) == expected


_EXPECTED = "expected a host name or address with an optional port, like host2 or 10.0.0.2:6783"
_PORT = "the port is not a number from 1 to 65535"
_BRACKETS = "write an IPv6 address with a port as [fd00::1]:6783"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", _EXPECTED),
        (":6783", _EXPECTED),
        ("a b", _EXPECTED),
        ("host_2!", _EXPECTED),
        ("-x", _EXPECTED),
        ("a..b", _EXPECTED),
        ("http://host2", _PORT),
        ("a" * 64, _EXPECTED),
        ("host2:", _PORT),
        ("host2:0", _PORT),
        ("host2:65536", _PORT),
        ("host2:99999999999999", _PORT),
        ("host2:http", _PORT),
        ("host2:+1", _PORT),
        ("[fd00::1]:0", _PORT),
        ("10.0.0.300", "it is not an IPv4 address"),
        ("10.0.0", "it is not an IPv4 address"),
        ("10.0.0.0.1:6783", "it is not an IPv4 address"),
        ("fd00::zz", _BRACKETS),
        ("[fd00::1", _BRACKETS),
        ("[fd00::1]6783", _BRACKETS),
        ("[host2]:1", _BRACKETS),
        ("fd00::1%eth0", _BRACKETS),
        ("fe80::1%", _BRACKETS),
    ],
)
def test_a_malformed_peer_is_named_and_explained(text: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_target(text)
    assert str(caught.value) == f"malformed peer '{text}': {why}"


@given(st.text(max_size=120))
def test_any_text_gives_an_answer_or_one_printable_line(text: str) -> None:
    for parse in (parse_target, parse_cidr):
        with contextlib.suppress(_OneLine), _user_errors_are_one_line():
            parse(text)


class _OneLine(Exception):
    """The input was refused as it should be."""


@contextlib.contextmanager
def _user_errors_are_one_line() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        shown = str(error)
        if shown.isprintable() and len(shown) < 250:
            raise _OneLine from None
        raise


def test_a_zone_that_is_no_text_is_no_peer() -> None:
    """As a terminal gives it that speaks another encoding: a lone surrogate."""
    with pytest.raises(UserError):
        parse_target("fe80::1%\udcff")
