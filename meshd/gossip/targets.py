"""Targets as a person types them, `host[:port]`, and how long to wait before the next attempt."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from random import Random

from meshd.errors import UserError
from meshd.ids import Endpoint

__all__ = ["BACKOFF_FIRST", "BACKOFF_LAST", "Backoff", "Target", "parse_target"]

BACKOFF_FIRST = 0.5
BACKOFF_LAST = 60.0
BACKOFF_FACTOR = 1.5
MAX_NAME = 253  # RFC 1035, section 2.3.4, without the root's dot

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


@dataclass(slots=True, frozen=True)
class Target:
    """`text` as typed; `numeric` is set where no name has to be resolved."""

    text: str
    host: str
    port: int
    numeric: Endpoint | None


def parse_target(text: str, default_port: int) -> Target:
    """Raises UserError for what can be no target; whether it exists is found out later."""
    host, port = _split(text, default_port)
    try:
        return Target(text, host, port, Endpoint(str(ipaddress.ip_address(host)), port))
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    numbers_only = all(label.isdigit() for label in labels)
    if len(host) > MAX_NAME or numbers_only or not all(_LABEL.fullmatch(label) for label in labels):
        raise _malformed(text)
    return Target(text, host, port, None)


def _split(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, separator, rest = text[1:].partition("]")
        if not separator or ":" not in host or (rest and not rest.startswith(":")):
            raise _malformed(text)
        port = rest[1:] if rest else str(default_port)
    elif text.count(":") > 1:  # an IPv6 address without a port
        host, port = text, str(default_port)
    else:
        host, separator, port = text.partition(":")
        port = port if separator else str(default_port)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _malformed(text)
    return host, int(port)


def _malformed(text: str) -> UserError:
    return UserError(f"not a peer: {text!r}", hint="give a host name or an address, with or without :port")


class Backoff:
    """0.5 s × 1.5 each time, up to 60 s; a wait is that ± 50 %, so that hosts that failed together do not return together."""

    __slots__ = ("_interval",)

    def __init__(self) -> None:
        self._interval = BACKOFF_FIRST

    def reset(self) -> None:
        self._interval = BACKOFF_FIRST

    def next(self, rng: Random) -> float:
        wait = self._interval * rng.uniform(0.5, 1.5)
        self._interval = min(self._interval * BACKOFF_FACTOR, BACKOFF_LAST)
        return wait
