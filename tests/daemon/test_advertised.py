"""What `--advertise` takes, and what it refuses in one line."""

from __future__ import annotations

import pytest

from meshd.daemon.advertised import parse_advertised
from meshd.errors import UserError
from meshd.ids import Endpoint


def test_addresses_with_and_without_a_port() -> None:
    texts = ("192.0.2.1", "192.0.2.1:7000", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:7000", "192.0.2.1:6783")
    assert parse_advertised(texts, 6783) == (
        Endpoint("192.0.2.1", 6783),
        Endpoint("192.0.2.1", 7000),
        Endpoint("2001:db8::1", 6783),
        Endpoint("2001:db8::1", 7000),
    )


@pytest.mark.parametrize(
    "text", ["", "host2", "1.2.3", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:x", "[::1", "1.2.3.4/24"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UserError, match=r"is not an IP address|no other host can use"):
        parse_advertised([text], 6783)


@pytest.mark.parametrize("text", ["0.0.0.0", "127.0.0.1", "::1", "224.0.0.1", "fe80::1", "[::]:6783", "169.254.3.4"])
def test_what_no_other_host_can_use(text: str) -> None:
    with pytest.raises(UserError, match="no other host can use"):
        parse_advertised([text], 6783)


def test_more_than_a_record_holds() -> None:
    with pytest.raises(UserError, match="at most 16"):
        parse_advertised([f"192.0.2.{number}" for number in range(17)], 6783)
