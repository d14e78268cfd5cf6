"""What `ping` and `trace` print, from the router's JSON. Pure, like `render`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshd.control.render import Paint, plain
from meshd.control.table import age, clean, pad

__all__ = ["render_ping", "render_summary", "render_trace"]

Json = dict[str, Any]
_LABEL = 9


def render_ping(answer: Json, paint: Paint = plain) -> str:
    """One line for one question."""
    who = _who(answer["Name"], answer["NickName"])
    if answer["Path"] is None:
        return f"{who} is this host\n"
    rtt = answer["RttMs"]
    if rtt is None:
        return f"{paint('bad', 'no answer')} from {who}: {_path(answer['Path'])}\n"
    return f"{who} answers in {paint('good', f'{rtt:.2f} ms')}, {_path(answer['Path'])}\n"


def render_summary(rtts: Sequence[float | None]) -> str:
    """The last line, as ping's users know it."""
    answered = [rtt for rtt in rtts if rtt is not None]
    lost = 100 * (len(rtts) - len(answered)) / len(rtts) if rtts else 0.0
    line = f"{len(rtts)} asked, {len(answered)} answered, {lost:.0f}% lost"
    if answered:
        line += f", rtt min/avg/max {min(answered):.2f}/{sum(answered) / len(answered):.2f}/{max(answered):.2f} ms"
    return line + "\n"


def render_trace(answer: Json, paint: Paint = plain) -> str:
    """The stations of a frame, in the order in which it passes them."""
    rows = [("target", clean(answer["Target"]) + (f", MAC {answer['Mac']}" if answer["Mac"] else ""))]
    rows.append(("decision", clean(answer["Verdict"])))
    if answer["Flow"]:
        rows.append(("flow", clean(answer["Flow"])))
    path = answer["Path"]
    if path is not None:
        rows.append(("session", _session(path)))
        rows.append(("path", _path(path)))
        rows += [("leg", _leg(leg, paint)) for leg in answer["Legs"]]
        rtt = answer["RttMs"]
        silent = paint("bad", "the router there does not answer")
        rows.append(("end", silent if rtt is None else paint("good", f"the router there answers in {rtt:.2f} ms")))
    return "".join(f"{paint('head', pad(label, _LABEL))} {text}\n" for label, text in rows)


def _session(path: Json) -> str:
    if path["SessionAgeS"] is None:
        return f"none: {clean(path['Reason'] or path['State'])}"
    return f"established {age(path['SessionAgeS'])} ago"


def _path(path: Json) -> str:
    where = f" {path['Endpoint']}" if path["Endpoint"] else ""
    reason = f" ({clean(path['Reason'])})" if path["Reason"] else ""
    rtt = "" if path["RttMs"] is None else f", rtt {path['RttMs']:.2f} ms"
    state = f"{path['State']}, MTU {path['MTU']}{rtt}, loss {100 * path['Loss']:.0f}%"
    return f"{path['Kind']}{clean(where)}: {state}{reason}"


def _leg(leg: Json, paint: Paint) -> str:
    start = _who(leg["Name"], leg["NickName"])
    if leg["Way"] == "silent":
        return f"{start} {paint('bad', 'does not answer')}"
    if leg["Way"] == "none":
        return f"{start} {paint('bad', 'knows no way on')}"
    if leg["Way"] == "self":
        return f"{start} is there"
    rtt = "rtt not measured yet" if leg["RttMs"] is None else f"rtt {leg['RttMs']:.2f} ms"
    what = "direct" if leg["Way"] == "direct" else "handed to a relay"
    return (
        f"{start} → {_who(leg['NextName'], leg['NextNickName'])}: {what}, {rtt}, MTU {leg['MTU']}, cost {leg['Cost']}"
    )


def _who(name: str, nickname: str) -> str:
    return clean(f"{name}({nickname})")
