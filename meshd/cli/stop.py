"""stop: end the router for good, leave everything that containers use."""

from __future__ import annotations

import click

from meshd.cli.terminal import warn
from meshd.config import Paths

__all__ = ["stop"]


@click.command()
def stop() -> None:
    """End the router.

    Attached containers keep interface and addresses, and go on talking to
    those on this host. `meshd launch` takes them up again. Where no router
    runs there is nothing to do, which is no error.

    \b
    Example:
      meshd stop
    """
    from meshd.daemon.lifecycle import stop as stop_router

    if not stop_router(Paths.from_environment()):
        warn("no router runs here: nothing to stop")
