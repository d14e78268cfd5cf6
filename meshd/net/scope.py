"""Link-local addresses name their interface: `fe80::1%eth0` (RFC 4007). Sockets give its number apart from the address."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

__all__ = ["host_of"]


def host_of(address: tuple[Any, ...]) -> str:
    """The host part of a socket address, with its interface where it is only good there."""
    host = str(address[0])
    if len(address) == 4 and address[3] and "%" not in host:
        with contextlib.suppress(OSError):
            return f"{host}%{socket.if_indextoname(address[3])}"
    return host
