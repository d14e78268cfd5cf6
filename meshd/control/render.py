"""From the report to what a person reads: Weave's listings with Weave's columns, and meshd's own tables.

Pure: the report in, text out. A peer's words (nicknames, error texts) are never let through to the terminal as control characters.
`Paint` puts colour on a word; the caller decides whether there is any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from meshd.control.table import age, amount, clean, pad, table

__all__ = [
    "Paint",
    "clean",
    "find_attachments",
    "plain",
    "render_connections",
    "render_json",
    "render_macs",
    "render_peers",
    "render_ps",
    "render_status",
    "render_targets",
]

Json = dict[str, Any]
Paint = Callable[[str, str], str]  # (role: good | warn | bad | dim | head, text) → text

_STATES = ("established", "pending", "retrying", "failed", "connecting")  # the order in which Weave counts them
_ROLES = {
    "established": "good",
    "alive": "good",
    "pending": "warn",
    "retrying": "warn",
    "connecting": "warn",
    "probing": "warn",
    "suspect": "warn",
    "idle": "dim",
    "failed": "bad",
    "dead": "bad",
    "no session": "bad",
    "frozen": "bad",
    "conflict": "bad",
}
_LABEL = 15  # Weave right-aligns labels so that the colon stands in column 16
_EXPOSE = "expose"  # the pseudo-container that stands for the host's own port of the bridge


def render_json(value: object) -> str:
    """The form of everything that `report` and `--json` print."""
    return json.dumps(value, indent=4, ensure_ascii=False) + "\n"


def plain(_role: str, text: str) -> str:
    return text


def render_status(report: Json, paint: Paint = plain) -> str:
    """The bare `status`: Weave's block with the blank lines that its script prints, then notices, paths, MACs, guards and drops."""
    parts = [_block(report, paint)]
    notices = [*report["AddressConflicts"], *report["Notices"]]
    if notices:
        parts.append(_lines(paint("warn", f"Notice: {clean(notice)}") for notice in notices))
    if report["Paths"]:
        parts.append(paint("head", "Paths:") + "\n" + _paths(report["Paths"], paint))
    if report["Router"]["MACs"]:
        parts.append(paint("head", "MACs:") + "\n" + render_macs(report, paint))
    guarded = [one for one in report["Attachments"] if one["PortSecurity"] or any(one["Drops"].values())]
    if guarded:
        parts.append(paint("head", "Guards:") + "\n" + _guards(guarded, paint))
    if any(report["Drops"].values()):
        parts.append(paint("head", "Drops:") + "\n" + _drops(report["Drops"]))
    return "\n" + "\n".join(parts) + "\n"


def _block(report: Json, paint: Paint) -> str:
    router, engine, bridge = report["Router"], report["Engine"], report["Bridge"]
    rows = [
        ("Version", f"{report['Version']} (version check update disabled)"),
        None,
        ("Service", "router"),
        ("Protocol", f"{router['Protocol']} {router['ProtocolMinVersion']}..{router['ProtocolMaxVersion']}"),
        ("Name", f"{router['Name']}({router['NickName']})"),
        ("Encryption", _encryption(report)),
        ("PeerDiscovery", "enabled" if router["PeerDiscovery"] else "disabled"),
        ("Targets", str(len(router["Targets"]))),
        ("Connections", _connection_count(router["Connections"])),
        ("Peers", _peer_count(router["Peers"])),
        ("TrustedSubnets", ", ".join(router["TrustedSubnets"]) or "none"),
        ("Mesh", report["Mesh"]["Id"]),
        ("Engine", _with(engine["Name"], engine["Reason"])),
        ("Offloads", engine["Offloads"] or "none"),
        ("Bridge", _with(bridge["Name"], bridge["Mac"] or "missing") if bridge["Name"] else "none"),
        ("Capture", router["Interface"]),
        ("MTU", str(bridge["MTU"])),
        ("Loop", _loop(report)),
    ]
    return _lines("" if row is None else paint("dim", f"{row[0]:>{_LABEL}}:") + f" {clean(row[1])}" for row in rows)


def _with(value: str, detail: str) -> str:
    return f"{value} ({detail})" if detail else value


def _encryption(report: Json) -> str:
    suite = report["Mesh"]["Suite"]
    return f"enabled ({suite})" if report["Router"]["Encryption"] else "disabled (frames are authenticated, not secret)"


def _connection_count(connections: list[Json]) -> str:
    states = [connection["State"] for connection in connections]
    counts = [f"{states.count(state)} {state}" for state in _STATES if state in states]
    return _with(str(len(states)), ", ".join(counts))


def _peer_count(peers: list[Json]) -> str:
    """Connections are counted at both of their ends, as Weave does; no connection at all is a bare number."""
    links = [link["Established"] for peer in peers for link in peer["Connections"]]
    counts = [f"{links.count(up)} {state}" for up, state in ((True, "established"), (False, "pending")) if up in links]
    return _with(str(len(peers)), f"with {', '.join(counts)} connections" if counts else "")


def _loop(report: Json) -> str:
    loop, process = report["Loop"], report["Process"]
    lag = f"lag p99 {loop['LagP99Ms']:.1f} ms, {loop['SlowCallbacks']} slow callbacks"
    return f"{lag}, up {age(process['UptimeS'])}, {process['RssMiB']:.0f} MiB"


def render_targets(report: Json, paint: Paint = plain) -> str:
    return _lines(clean(target) for target in report["Router"]["Targets"])


def render_connections(report: Json, paint: Paint = plain) -> str:
    return _lines(_connection(connection, paint) for connection in report["Router"]["Connections"])


def _connection(connection: Json, paint: Paint) -> str:
    state = connection["State"]
    info = clean(connection["Info"])
    label = _label(connection) if connection["Name"] else ""
    if state in ("established", "pending") and label not in info:
        info = f"{info} {label}".strip()
    attributes = " ".join(clean(f"{name}={value}") for name, value in connection["Attrs"].items())
    columns = [
        _arrow(connection["Outbound"]),
        pad(clean(connection["Address"]), 21),
        _state(state, paint, 11),
        info,
        attributes,
    ]
    return " ".join(column for column in columns if column).rstrip()


def render_peers(report: Json, paint: Paint = plain) -> str:
    lines = []
    for peer in report["Router"]["Peers"]:
        lines.append(_label(peer))
        lines.extend(_peer_link(link, paint) for link in peer["Connections"])
    return _lines(lines)


def _peer_link(link: Json, paint: Paint) -> str:
    state = _state("established" if link["Established"] else "pending", paint)
    return f"   {_arrow(link['Outbound'])} {pad(clean(link['Address']) or '-', 21)} {pad(_label(link), 37)} {state}"


def render_macs(report: Json, paint: Paint = plain) -> str:
    header = ("MAC", "PEER", "CONTAINER", "ADDRESSES", "KIND", "AGE", "STATE")
    rows = [
        (
            mac["Mac"],
            _label(mac),
            mac["Label"] or "-",
            ",".join(mac["Addresses"]) or "-",
            mac["Kind"],
            age(mac["LastSeenS"]),
            mac["State"] or "ok",
        )
        for mac in report["Router"]["MACs"]
    ]
    return table(header, rows, _painter(paint))


def _paths(paths: list[Json], paint: Paint) -> str:
    header = ("PEER", "KIND", "ENDPOINT", "STATE", "MTU", "RTT", "LOSS", "SINCE", "OUT", "IN", "WHY")
    rows = [
        (
            _label(path),
            path["Kind"],
            path["Endpoint"] or "-",
            path["State"],
            f"{path['MTU']}{'' if path['Measured'] or not path['MTU'] else '+'}",
            "-" if path["RttMs"] is None else f"{path['RttMs']:.2f}ms",
            f"{100 * path['Loss']:.0f}%",
            age(path["SinceS"]),
            amount(path["BytesOut"]),
            amount(path["BytesIn"]),
            path["Reason"] or "-",
        )
        for path in paths
    ]
    return table(header, rows, _painter(paint))


def _painter(paint: Paint) -> Callable[[str, str], str]:
    """Colour by what a cell says: a state's word, or the header's line."""

    def cell(column: str, text: str) -> str:
        if not column:
            return paint("head", text)
        role = _ROLES.get(text.strip()) if column == "STATE" else None
        return paint(role, text) if role else text

    return cell


def _guards(attachments: list[Json], paint: Paint) -> str:
    """Containers with port security, and those of which something was dropped at their interface."""
    header = ("CONTAINER", "PORT SECURITY", "DROPPED")
    rows = [
        (
            one["Name"] or one["Label"],
            "yes" if one["PortSecurity"] else "no",
            ", ".join(f"{count} {reason}" for reason, count in one["Drops"].items() if count) or "-",
        )
        for one in attachments
    ]
    return table(header, rows, _painter(paint))


def _drops(drops: dict[str, int]) -> str:
    width = max(len(str(count)) for count in drops.values())
    return _lines(f"{count:>{width}} {clean(reason)}" for reason, count in drops.items() if count)


def render_ps(answer: Json, wanted: Iterable[str] = ()) -> str:
    """`ID MAC CIDR CIDR…`, the host's own port first; with `wanted`, a line for each that is attached, under the name asked for.

    Ids and names of containers in 12 characters, as Weave does; pid:N and netns:NAME whole, or `detach` could not take them.
    """
    asked = list(wanted)
    if not asked:
        return _lines([_expose(answer), *(_attached(one, one["Label"]) for one in answer["Attachments"])])
    lines = []
    for name in asked:
        if name == _EXPOSE:
            lines.append(_expose(answer))
        lines.extend(_attached(one, name if ":" in name else name[:12]) for one in find_attachments(answer, name))
    return _lines(lines)


def find_attachments(answer: Json, name: str) -> list[Json]:
    """The attachment of this name or id, else the one whose id begins so. An ambiguous beginning finds none, as in Docker."""
    every: list[Json] = answer["Attachments"]
    exact = [one for one in every if name in (one["Id"], one["Name"], one["Label"])]
    if exact or not name:
        return exact[:1]
    begins = [one for one in every if one["Id"].startswith(name)]
    return begins if len(begins) == 1 else []


def _expose(answer: Json) -> str:
    return " ".join([_EXPOSE, answer["Bridge"]["Mac"] or "-"])


def _attached(attachment: Json, shown: str) -> str:
    return clean(" ".join([shown, attachment["Mac"], *attachment["Addresses"]]))


def _arrow(outbound: bool) -> str:
    return "->" if outbound else "<-"


def _label(named: Json) -> str:
    return clean(f"{named['Name']}({named['NickName']})")


def _state(state: str, paint: Paint, width: int = 0) -> str:
    shown = clean(state)
    padding = " " * (width - len(shown))
    role = _ROLES.get(state)
    return (paint(role, shown) if role else shown) + padding


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
