"""Addresses that are only good on one interface say which."""

from __future__ import annotations

import socket

from meshd.net.scope import host_of


def test_a_link_local_address_names_its_interface() -> None:
    number, name = socket.if_nameindex()[0]
    assert host_of(("fe80::1", 6783, 0, number)) == f"fe80::1%{name}"
    assert host_of((f"fe80::1%{name}", 6783, 0, number)) == f"fe80::1%{name}"


def test_others_are_left_as_they_are() -> None:
    assert host_of(("192.0.2.1", 6783)) == "192.0.2.1"
    assert host_of(("2001:db8::1", 6783, 0, 0)) == "2001:db8::1"
    assert host_of(("fe80::1", 6783, 0, 1 << 30)) == "fe80::1"  # an interface that is gone
