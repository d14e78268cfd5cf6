"""What `ping` and `trace` answer: from views to JSON on the router's side. Keys in the style of the report."""

from __future__ import annotations

from typing import Any

from meshd.control.report import path_body
from meshd.views import LegView, PingView, TraceView

__all__ = ["ping_body", "trace_body"]

Json = dict[str, Any]


def ping_body(view: PingView) -> Json:
    return {
        "Target": view.target,
        "Name": view.name,
        "NickName": view.nickname,
        "RttMs": view.rtt_ms,
        "Path": None if view.path is None else path_body(view.path),
    }


def trace_body(view: TraceView) -> Json:
    return {
        "Target": view.target,
        "Name": view.name,
        "NickName": view.nickname,
        "Mac": view.mac,
        "Verdict": view.verdict,
        "Flow": view.flow,
        "Path": None if view.path is None else path_body(view.path),
        "Legs": [_leg(leg) for leg in view.legs],
        "RttMs": view.rtt_ms,
    }


def _leg(leg: LegView) -> Json:
    return {
        "Name": leg.name,
        "NickName": leg.nickname,
        "NextName": leg.next_name,
        "NextNickName": leg.next_nickname,
        "Way": leg.way,
        "RttMs": leg.rtt_ms,
        "MTU": leg.mtu,
        "Cost": leg.cost,
    }
