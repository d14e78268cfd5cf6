"""What a container may send: nftables rules at the ingress of its host end, before the bridge sees a frame.

One table for each bridge, one chain for each host end, one counter for each reason:

    table netdev meshd_BRIDGE
      chain mv3f9c…   hook ingress device mv3f9c…
        router       router advertisements and redirects (CVE-2020-13401, CVE-2020-13597): no container configures its neighbours
        dhcp         answers of a DHCP server, v4 and v6
        flood        broadcast, and multicast that goes to every host, above FLOOD_RATE: a storm ends here; tagged streams may pass
        spoofed      with port security: a source MAC or address that is not the container's, in Ethernet, IP, ARP or ND; tags

The kernel does this at the container's own expense, before anything is copied. Nobody is told but the counters. `nft` takes a
whole set of rules as one transaction, so a chain is never there half. Everything here blocks: some 10 ms a call, and more with more
containers, as `nft` looks at all that is there. What is counted the kernel is asked itself.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meshd.capture.nfnetlink import chains_with_rules, packets_counted
from meshd.ids import Mac, format_mac

__all__ = [
    "FLOOD_BURST",
    "FLOOD_RATE",
    "REASONS",
    "Guard",
    "available",
    "guard_counters",
    "link_local",
    "of_interfaces",
    "remove_guard",
    "remove_guards",
    "set_guards",
]

FLOOD_RATE = 200  # frames a second, of each kind, that reach every host of the mesh
FLOOD_BURST = 400
REASONS = ("router", "dhcp", "flood", "spoofed")

_TIMEOUT = 20
_LINK_GROUPS = (
    "01:00:5e:00:00:00",
    "33:33:00:00:00:00",
    "03:6d:65:73:68:00",
)  # …:xx; the last is our own look for loops
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_TAGS = (0x8100, 0x88A8)
_IP_OR_TAG = (0x0800, 0x86DD, *_TAGS)  # may be a stream to a group, and no storm

Json = dict[str, Any]


@dataclass(slots=True, frozen=True, kw_only=True)
class Guard:
    """One host end. `addresses` are CIDRs; with `port_security` only they, and `mac`, pass as sources."""

    host_ifname: str
    mac: Mac
    addresses: tuple[str, ...] = ()
    port_security: bool = False


def available() -> bool:
    return shutil.which("nft") is not None


def set_guards(bridge: str, guards: Sequence[Guard]) -> None:
    """Put these host ends' rules in force, or replace them; counters go on. The interfaces must exist. Raises OSError."""
    if guards:
        commands = [_add("table", {"name": _table(bridge)})]
        for guard in guards:
            commands += _chain(bridge, guard)
        _run(commands)


def of_interfaces(guards: Sequence[Guard]) -> list[Guard]:
    """Those whose interface exists: another one would keep all of them out."""
    names = {name for _, name in socket.if_nameindex()}
    return [guard for guard in guards if guard.host_ifname in names]


def remove_guard(bridge: str, host_ifname: str) -> None:
    """Remove one host end's rules and counters, whatever of them is there. Raises OSError."""
    table = _table(bridge)
    chain = {"table": table, "name": host_ifname}
    counters = [{"table": table, "name": _counter(host_ifname, reason)} for reason in REASONS]
    # What is not there is made first: deleting it would be an error and undo the rest.
    commands = [_add("table", {"name": table}), _add("chain", chain), _command("flush", "chain", chain)]
    commands.append(_command("delete", "chain", chain))
    for counter in counters:
        commands += [_add("counter", counter), _command("delete", "counter", counter)]
    _run(commands)


def remove_guards(bridge: str) -> bool:
    """Remove the whole table; False if there is none. Raises OSError."""
    if not available():
        return False
    done = _nft("delete", "table", "netdev", _table(bridge))
    if done.returncode and "No such file" not in done.stderr:
        raise OSError(errno.EIO, _complaint(done.stderr))
    return not done.returncode


def guard_counters(bridge: str) -> dict[str, dict[str, int]]:
    """Frames dropped, by host end and reason; a host end that is guarded is in it. Raises OSError."""
    table = _table(bridge)
    dropped = packets_counted(table)
    return {
        host_ifname: {reason: dropped.get(_counter(host_ifname, reason), 0) for reason in REASONS}
        for host_ifname in sorted(chains_with_rules(table))
    }


# ── rules


def _chain(bridge: str, guard: Guard) -> list[Json]:
    table = _table(bridge)
    named = {"table": table, "name": guard.host_ifname}
    hooked = {**named, "type": "filter", "hook": "ingress", "dev": guard.host_ifname, "prio": 0, "policy": "accept"}
    commands = [_add("counter", {"table": table, "name": _counter(guard.host_ifname, reason)}) for reason in REASONS]
    # Made anew: a chain whose interface was removed and made again hangs on nothing.
    commands += [_add("chain", named), _command("flush", "chain", named), _command("delete", "chain", named)]
    commands.append(_add("chain", hooked))
    for reason, matches in _rules(guard):
        counter = _counter(guard.host_ifname, reason)
        expression = [*matches, {"counter": counter}, {"drop": None}]
        commands.append(_add("rule", {"table": table, "chain": guard.host_ifname, "expr": expression}))
    return commands


def _rules(guard: Guard) -> Iterable[tuple[str, list[Json]]]:
    limit = {"limit": {"rate": FLOOD_RATE, "burst": FLOOD_BURST, "per": "second", "inv": True}}
    yield "router", [_match("icmpv6", "type", {"set": ["nd-router-advert", "nd-redirect"]})]
    yield "dhcp", [_match("udp", "sport", 67), _match("udp", "dport", 68)]
    yield "dhcp", [_match("udp", "sport", 547), _match("udp", "dport", 546)]
    if guard.port_security:
        yield from (("spoofed", matches) for matches in _spoofed(guard))
    yield "flood", [_match("ether", "daddr", _BROADCAST), limit]
    yield "flood", [_masked("ff:ff:ff:ff:ff:00", {"set": list(_LINK_GROUPS)}), limit]
    yield "flood", [_masked("ff:ff:ff:00:00:00", "33:33:ff:00:00:00"), limit]
    group = _masked("01:00:00:00:00:00", "01:00:00:00:00:00")
    yield "flood", [group, _match("ether", "daddr", _BROADCAST, "!="), _ethertype(_IP_OR_TAG, "!="), limit]


def _spoofed(guard: Guard) -> Iterable[list[Json]]:
    mac = format_mac(guard.mac)
    addresses = [ipaddress.ip_interface(cidr).ip for cidr in guard.addresses]
    own4 = [str(address) for address in addresses if address.version == 4]
    own6 = [address for address in (*addresses, link_local(guard.mac)) if address.version == 6]
    yield [_match("ether", "saddr", mac, "!=")]
    yield [_ethertype(_TAGS)]  # nobody looks inside
    yield [_match("ip", "saddr", {"set": ["0.0.0.0", *own4]}, "!=")]
    yield [_match("arp", "saddr ether", mac, "!=")]
    yield [_match("arp", "saddr ip", {"set": ["0.0.0.0", *own4]}, "!=")]
    yield [_match("ip6", "saddr", {"set": ["::", *map(str, own6)]}, "!=")]
    # The target of an advertisement; `icmpv6 taddr` is newer than the nft of Debian 12.
    target = {"payload": {"base": "th", "offset": 64, "len": 128}}
    own = {"set": [f"0x{int(address):032x}" for address in own6]}
    yield [_match("icmpv6", "type", "nd-neighbor-advert"), _match("", "", own, "!=", left=target)]


def link_local(mac: Mac) -> ipaddress.IPv6Address:
    """The address that the container's kernel makes of its MAC (RFC 4291, appendix A)."""
    identifier = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def _match(protocol: str, field: str, right: object, operator: str = "==", *, left: Json | None = None) -> Json:
    chosen = left if left is not None else {"payload": {"protocol": protocol, "field": field}}
    return {"match": {"op": operator, "left": chosen, "right": right}}


def _ethertype(numbers: tuple[int, ...], operator: str = "==") -> Json:
    """As it stands in the frame: to `meta protocol` one VLAN tag is none, as the kernel has taken it out already."""
    return _match("", "", {"set": list(numbers)}, operator, left={"payload": {"base": "ll", "offset": 96, "len": 16}})


def _masked(mask: str, right: object) -> Json:
    field = {"payload": {"protocol": "ether", "field": "daddr"}}
    return _match("", "", right, left={"&": [field, mask]})


# ── nft


def _table(bridge: str) -> str:
    """A name that nft's own language can say too."""
    return "meshd_" + re.sub(r"[^A-Za-z0-9_]", lambda found: f"_{ord(found[0]):x}_", bridge)


def _counter(host_ifname: str, reason: str) -> str:
    return f"{host_ifname}_{reason}"


def _command(verb: str, kind: str, what: Json) -> Json:
    return {verb: {kind: {"family": "netdev", **what}}}


def _add(kind: str, what: Json) -> Json:
    return _command("add", kind, what)


def _run(commands: list[Json]) -> None:
    done = _nft("-j", "-f", "-", text=json.dumps({"nftables": commands}))
    if done.returncode:
        raise OSError(errno.EIO, _complaint(done.stderr))


def _nft(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, "nft does not end") from None
    except FileNotFoundError:
        raise OSError(errno.ENOENT, "nft is not installed") from None


def _complaint(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return f"nft: {lines[0] if lines else 'no message'}"
