"""connect and forget: which peers a running router dials."""

from __future__ import annotations

import click

from meshd.cli.common import router
from meshd.control.client import parse_target

__all__ = ["connect", "forget"]


@click.command()
@click.option("--replace", is_flag=True, help="Drop all other targets.")
@click.argument("peers", nargs=-1, metavar="PEER…")
def connect(peers: tuple[str, ...], replace: bool) -> None:
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


@click.command()
@click.argument("peers", nargs=-1, required=True, metavar="PEER…")
def forget(peers: tuple[str, ...]) -> None:
    """Stop dialling peers that launch or connect were given.

    A live connection stays until it breaks, and discovery may find the peer again.

    \b
    Example:
      meshd forget host2
    """
    router().forget(_checked(peers))


def _checked(peers: tuple[str, ...]) -> tuple[str, ...]:
    for peer in peers:
        parse_target(peer)
    return peers
