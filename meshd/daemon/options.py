"""How the options of `launch` reach the router, at its first start and at every later one: RUN_FOLDER/launch.json, mode 0600.

Secrets are not among them: the key is settled before (`daemon.keys`) and read by the router from its file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from meshd.config import LaunchOptions
from meshd.daemon.files import write_private
from meshd.errors import UserError

__all__ = ["options_file", "read_options", "write_options"]

_SECRETS = frozenset({"key", "key_file", "password", "password_file"})


def options_file(run: Path) -> Path:
    return run / "launch.json"


def write_options(run: Path, options: LaunchOptions) -> None:
    shown = {name: value for name, value in asdict(options).items() if name not in _SECRETS}
    write_private(options_file(run), json.dumps(shown, indent=2).encode() + b"\n")


def read_options(run: Path) -> LaunchOptions:
    """Raises UserError where the file is missing or is not what write_options writes."""
    path = options_file(run)
    try:
        shown = json.loads(path.read_text())
        known = {field.name for field in fields(LaunchOptions)} - _SECRETS
        chosen = {name: value for name, value in shown.items() if name in known}
        return LaunchOptions(
            **{**chosen, "peers": tuple(chosen.get("peers", ())), "advertise": tuple(chosen.get("advertise", ()))}
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error})", hint="start again with `meshd launch`") from error
