"""reset: remove every trace of the router from this host."""

from __future__ import annotations

import click

from meshd.cli.common import json_option
from meshd.cli.terminal import say, warn
from meshd.config import Paths
from meshd.control.render import render_json

__all__ = ["reset"]


@click.command()
@click.option("--force", is_flag=True, help="Also when the router does not answer.")
@json_option
def reset(force: bool, as_json: bool) -> None:
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

    existed = reset_host(Paths.from_environment(), force=force, progress=warn)
    if as_json:
        say(render_json({"Reset": existed}))
    elif not existed:
        warn("nothing of meshd is here: nothing to remove")
