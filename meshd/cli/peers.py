"""connect and forget: which peers a running router dials."""

from __future__ import annotations

from typing import Any

import click

from meshd.cli.common import json_option, router
from meshd.cli.terminal import say
from meshd.control.client import parse_target
from meshd.control.render import render_json

__all__ = ["connect", "forget"]


@click.command()
@click.option("--replace", is_flag=True, help="Drop all other targets.")
@click.argument("peers", nargs=-1, metavar="PEER…")
@json_option
def connect(peers: tuple[str, ...], replace: bool, as_json: bool) -> None:
    """Add peers to the running router; dial them now.

    A PEER is HOST, HOST:PORT, or [IPV6]:PORT. The command returns at once: a
    peer that cannot be reached yet is dialled again and again (meshd status
    connections).

    \b
    Examples:
      meshd connect host2
      meshd connect 192.0.2.7:6783 [2001:db8::7]:6783
      meshd connect --replace host3
    """
    if not peers and not replace:
        raise click.UsageError("no peer given")
    router().connect(_checked(peers), replace=replace)
    _told(as_json)


@click.command()
@click.argument("peers", nargs=-1, required=True, metavar="PEER…")
@json_option
def forget(peers: tuple[str, ...], as_json: bool) -> None:
    """Stop dialling peers that launch or connect were given.

    A live connection stays until it breaks, and discovery may find the peer again.

    \b
    Example:
      meshd forget host2
    """
    router().forget(_checked(peers))
    _told(as_json)


def _told(as_json: bool) -> None:
    """Nothing, as Weave's verbs do; as JSON the targets that there are now."""
    if as_json:
        report: Any = router().status()
        say(render_json({"Targets": report["Router"]["Targets"]}))


def _checked(peers: tuple[str, ...]) -> tuple[str, ...]:
    for peer in peers:
        parse_target(peer)
    return peers
