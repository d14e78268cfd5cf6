"""What users type where an address, a peer, a container or an interface is wanted, checked with messages that say what to type.

Pure, standard library only. The command line checks before it calls, the server checks again: not every client is ours.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from meshd.config import DEFAULT_IFNAME
from meshd.control.limits import MAX_IFNAME, MAX_NAME
from meshd.errors import UserError

__all__ = ["MAX_HOST_NAME", "Target", "check_container", "check_ifname", "check_inquiry", "parse_cidr", "parse_target"]

MAX_HOST_NAME = 253  # RFC 1035 § 2.3.4, without the trailing dot

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMERIC = re.compile(r"[0-9.]+")
_EXAMPLE = "10.0.1.5/24"
_EXAMPLE_V6 = "fd00::5/64"

_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(slots=True, frozen=True)
class Target:
    """A peer as the user names it: a name or numeric address, and a port where one was given."""

    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.port is not None else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_cidr(text: str) -> str:
    """`10.0.1.5/24` or `ip:10.0.1.5/24` → the canonical CIDR, host bits kept. Raises UserError, one line."""
    asked = text.strip()
    if asked == "net" or asked.startswith("net:"):
        raise UserError(
            f"{_quote(asked)} asks for an automatic address, which this meshd does not give out yet",
            hint=f"give an address with its prefix length: {_EXAMPLE}",
        )
    bare = asked.removeprefix("ip:")
    interface = _parse_interface(bare)
    reason = _unusable(interface)
    if reason:
        raise UserError(f"{_quote(bare)} cannot be given to a container: {reason}")
    return str(interface)


def _parse_interface(text: str) -> _Interface:
    address, slash, length = text.partition("/")
    example = _EXAMPLE_V6 if ":" in address else _EXAMPLE
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise UserError(f"malformed address {_quote(text)}", hint=f"write it like {example}") from None
    if "%" in address:
        raise UserError(
            f"malformed address {_quote(text)}: it must not name an interface", hint=f"write it like {example}"
        )
    if not slash:
        wanted = f"{address}/{64 if parsed.version == 6 else 24}"
        raise UserError(f"address {_quote(text)} has no prefix length", hint=f"write it like {wanted}")
    # Only a plain number: ipaddress would also take a netmask, and a reader of "10.0.0.1/255.0.0.0" expects other output.
    if not length.isascii() or not length.isdigit() or int(length[:4]) > parsed.max_prefixlen:
        limit = parsed.max_prefixlen
        raise UserError(
            f"prefix length of {_quote(text)} is not a number from 1 to {limit}", hint=f"write it like {example}"
        )
    if int(length) == 0:
        raise UserError(f"{_quote(text)} would make every address local", hint=f"write it like {example}")
    return ipaddress.ip_interface(f"{parsed}/{int(length)}")


def _unusable(interface: _Interface) -> str:
    """Why no host may hold this address; "" if one may."""
    address, network = interface.ip, interface.network
    if address.is_unspecified:
        return "it stands for no address"
    if address.is_multicast:
        return "it is a multicast address"
    if address.is_loopback:
        return "it is a loopback address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"write the IPv4 address, {address.ipv4_mapped}"
        # RFC 4291 § 2.6.1; /127 has none (RFC 6164)
        return f"it is the router anycast address of {network}" if _is_first(interface, network, 126) else ""
    if address in ipaddress.IPv4Network("0.0.0.0/8") or address in ipaddress.IPv4Network("240.0.0.0/4"):
        return "it is a reserved address"
    if _is_first(interface, network, 30):  # a /31 has two hosts and no network address (RFC 3021)
        return f"it is the network address of {network}"
    if network.prefixlen <= 30 and address == network.broadcast_address:
        return f"it is the broadcast address of {network}"
    return ""


def _is_first(interface: _Interface, network: _Network, longest: int) -> bool:
    return network.prefixlen <= longest and interface.ip == network.network_address


def parse_target(text: str) -> Target:
    """`host`, `host:port`, `ipv4[:port]`, `[ipv6]:port` or a bare IPv6 address. Raises UserError, one line."""
    asked = text.strip()
    host, port = _split_port(asked)
    if _is_address(host) or _is_scoped(host):
        return Target(str(ipaddress.ip_address(host)), port)
    if ":" in host or "[" in host or "]" in host:
        raise _malformed(asked, "write an IPv6 address with a port as [fd00::1]:6783")
    if _NUMERIC.fullmatch(host):
        raise _malformed(asked, "it is not an IPv4 address")
    name = host.removesuffix(".")
    if not name or len(name) > MAX_HOST_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise _malformed(asked, "expected a host name or address with an optional port, like host2 or 10.0.0.2:6783")
    return Target(host, port)


def _split_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise _malformed(text, "write an IPv6 address with a port as [fd00::1]:6783")
        return host, _port(text, rest[1:]) if rest else None
    if text.count(":") != 1:
        return text, None
    host, _, port = text.partition(":")
    return host, _port(text, port)


def _port(text: str, digits: str) -> int:
    if not digits.isascii() or not digits.isdigit() or not 0 < int(digits[:6]) < 65536:
        raise _malformed(text, "the port is not a number from 1 to 65535")
    return int(digits)


def _is_scoped(host: str) -> bool:
    """`fe80::1%eth0`: a neighbour on that interface (RFC 4007)."""
    address, _, zone = host.partition("%")
    if not zone.isprintable() or not 0 < len(zone.encode()) <= MAX_IFNAME or "/" in zone:
        return False
    try:
        return ipaddress.IPv6Address(address).is_link_local
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host) is not None and "%" not in host
    except ValueError:
        return False


def check_ifname(value: object) -> str:
    """An interface name that the kernel takes (dev_valid_name), else UserError."""
    if isinstance(value, str) and any(c in "/:" or c.isspace() or not c.isprintable() for c in value):
        raise UserError(f"malformed interface name {value!r}", hint="leave out '/', ':' and spaces")
    if not isinstance(value, str) or not value or value in (".", "..") or len(value.encode()) > MAX_IFNAME:
        raise UserError(
            f"malformed interface name {value!r}", hint=f"use 1 to {MAX_IFNAME} characters, like {DEFAULT_IFNAME}"
        )
    return value


def check_container(text: str) -> str:
    if not text.strip() or len(text) > MAX_NAME or not text.isprintable():
        raise UserError("malformed container name", hint="give a name, an id, pid:N or netns:NAME")
    return text


def _malformed(text: str, why: str) -> UserError:
    return UserError(f"malformed peer {_quote(text)}: {why}")


def _quote(text: str) -> str:
    """The text as typed, made safe for one line of a terminal and not longer than one."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return f"'{shown[:80]}…'" if len(shown) > 80 else f"'{shown}'"


def check_inquiry(text: str) -> str:
    """What `ping` and `trace` are asked about: one word. A prefix length is left out of an address."""
    word = text.strip()
    address, slash, _ = word.partition("/")
    if slash and _is_address(address):
        word = address
    if not word or len(word) > MAX_NAME or not word.isprintable() or any(letter.isspace() for letter in word):
        raise UserError(
            f"{_quote(text)} names nothing", hint="give an address, a MAC, or the name of a host or container"
        )
    return word
