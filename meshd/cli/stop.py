"""stop: end the router for good, leave everything that containers use."""

from __future__ import annotations

import click

from meshd.cli.common import json_option
from meshd.cli.terminal import say, warn
from meshd.config import Paths
from meshd.control.render import render_json

__all__ = ["stop"]


@click.command()
@json_option
def stop(as_json: bool) -> None:
    """End the router.

    Attached containers keep interface and addresses, and go on talking to
    those on this host. `meshd launch` takes them up again. Where no router
    runs there is nothing to do, which is no error.

    \b
    Example:
      meshd stop
    """
    from meshd.daemon.stopping import stop as stop_router

    stopped = stop_router(Paths.from_environment(), warn)
    if as_json:
        say(render_json({"Stopped": stopped}))
    elif not stopped:
        warn("no router runs here: nothing to stop")
