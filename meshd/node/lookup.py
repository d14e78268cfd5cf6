"""From a word that a person types to what it names in the mesh: a host, an address, a MAC, a container.

In this order, the first that fits: an IP address (its holder), a MAC (a host's name, else the MAC's owner), a host's nickname,
`name(nickname)` or id, a container's label or id. A word that fits several is an error that lists them; but where some of their
hosts are alive those that are dead do not count: a host that was installed anew has a new identity, and its former one, which the
mesh remembers, has the same nickname, and containers of the same names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from meshd.errors import UserError
from meshd.ids import HostId, Mac, SegmentId, format_mac, parse_mac
from meshd.node.directory import Directory

__all__ = ["Found", "containers_called", "find", "hosts_called"]

SEGMENT = SegmentId(0)
_SHOWN = 5
_MIN_PREFIX = 4  # of an id


@dataclass(slots=True, frozen=True, kw_only=True)
class Found:
    """`host` has it. `mac`: where frames go, None where a host itself was named. `text`: what it is, for people."""

    host: HostId
    text: str
    mac: Mac | None = None


def find(word: str, directory: Directory, alive: Collection[HostId] = ()) -> Found:
    """Raises UserError for a word that names nothing, or several things."""
    try:
        return _by_address(ipaddress.ip_address(word), directory)
    except ValueError:
        pass
    try:
        return _by_mac(parse_mac(word), directory, alive)
    except ValueError:
        pass
    found = hosts_called(word, directory, alive) or containers_called(word, directory, alive)
    if not found:
        raise UserError(
            f"nothing in the mesh is called {word!r}",
            hint="`meshd status peers` lists hosts, `meshd status macs` containers and addresses",
        )
    if len(found) > 1:
        shown = ", ".join(one.text for one in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UserError(f"{word!r} may be any of {shown}{more}", hint="give a name or address that only one has")
    return found[0]


def _by_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, directory: Directory) -> Found:
    holder = directory.addresses.holder(SEGMENT, address)
    if holder is None:
        raise UserError(
            f"no container of the mesh has {address}",
            hint="`meshd status macs` lists addresses; only those given to attach are known",
        )
    container = directory.attachment_label(holder.host, holder.label)
    text = f"{address} of container {container} on {directory.label_of(holder.host)}"
    return Found(host=holder.host, text=text, mac=holder.mac)


def _by_mac(mac: Mac, directory: Directory, alive: Collection[HostId]) -> Found:
    named = hosts_called(format_mac(mac), directory, alive)
    if len(named) == 1:
        return named[0]
    owner = directory.fdb.lookup(SEGMENT, mac)
    if owner is None:
        raise UserError(
            f"no host or container of the mesh is {format_mac(mac)}", hint="`meshd status macs` lists what is known"
        )
    return Found(host=owner, text=f"{format_mac(mac)} on {directory.label_of(owner)}", mac=mac)


def hosts_called(word: str, directory: Directory, alive: Collection[HostId] = ()) -> list[Found]:
    """By name, nickname, both as listings show them, or id."""
    found = [
        host
        for host, record in directory.hosts.items()
        if word in (format_mac(record.name), record.nickname, directory.label_of(host)) or _begins(host.hex(), word)
    ]
    return _living([Found(host=host, text=directory.label_of(host)) for host in sorted(found)], alive)


def containers_called(word: str, directory: Directory, alive: Collection[HostId] = ()) -> list[Found]:
    """By label, or the beginning of the id."""
    found = []
    for (host, container_id), value in sorted(directory.attachments.items()):
        if value.macs and (word == value.label or _begins(container_id, word)):
            text = f"container {value.label} on {directory.label_of(host)}"
            found.append(Found(host=host, text=text, mac=value.macs[0]))
    return _living(found, alive)


def _living(found: list[Found], alive: Collection[HostId]) -> list[Found]:
    return [one for one in found if one.host in alive] or found


def _begins(whole: str, word: str) -> bool:
    return len(word) >= _MIN_PREFIX and whole.startswith(word)
