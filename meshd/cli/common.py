"""What verbs share: whom they ask, and the options that many of them have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from meshd.config import Paths
from meshd.control.client import ControlClient

__all__ = ["json_option", "router"]


def router() -> ControlClient:
    """The router of this MESHD_DIR, running or not."""
    paths = Paths.from_environment()
    return ControlClient(paths.socket, lock=paths.lock)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
