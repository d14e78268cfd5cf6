"""`--advertise`: addresses at which others reach this host, that it cannot find out itself, as behind a NAT with a fixed port."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from meshd.errors import UserError
from meshd.gossip.values import MAX_ENDPOINTS
from meshd.ids import Endpoint, parse_endpoint

__all__ = ["parse_advertised"]


def parse_advertised(texts: Collection[str], port: int) -> tuple[Endpoint, ...]:
    """ADDR, ADDR:PORT, [ADDR]:PORT; each once. Raises UserError for what others could not use."""
    endpoints = tuple(dict.fromkeys(_parse(text, port) for text in texts))
    if len(endpoints) > MAX_ENDPOINTS:
        raise UserError(f"--advertise takes at most {MAX_ENDPOINTS} addresses")
    return endpoints


def _parse(text: str, port: int) -> Endpoint:
    try:
        endpoint = Endpoint(str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))), port)
    except ValueError:
        try:
            endpoint = parse_endpoint(text)
        except ValueError:
            raise UserError(f"--advertise {text!r} is not an IP address, with or without :PORT") from None
    ip = ipaddress.ip_address(endpoint.host)
    if ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_link_local:
        raise UserError(f"--advertise {text!r} is an address that no other host can use")
    return endpoint
