"""reset: remove every trace of the router from this host."""

from __future__ import annotations

import click

from meshd.cli.terminal import warn
from meshd.config import Paths

__all__ = ["reset"]


@click.command()
@click.option("--force", is_flag=True, help="Also when the router does not answer.")
def reset(force: bool) -> None:
    """End the router and remove all traces of it from this host.

    Bridge, container interfaces, firewall rules, identity and mesh key go; the
    host is a new one at its next launch. Keep the key first if you need it
    (meshd key show). Where nothing ever ran there is nothing to do, which is no error.

    \b
    Examples:
      meshd reset
      meshd reset --force
    """
    from meshd.daemon.lifecycle import reset as reset_host

    if not reset_host(Paths.from_environment(), force=force):
        warn("nothing of meshd is here: nothing to remove")
