"""key: the mesh's key of this host, while the router is stopped or running (show)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from meshd.cli.common import json_option
from meshd.cli.group import Section, Verb, Verbs
from meshd.cli.secrets import ASK, read_secret, take_from_environment, wipe_argv
from meshd.cli.terminal import is_terminal, say, warn
from meshd.config import Paths, Secret
from meshd.control.render import render_json
from meshd.errors import UserError

__all__ = ["key", "new", "set", "show"]

key = Verbs(
    name="key",
    help="Show, set or make the mesh's key: who holds it is a member of the mesh.",
    sections=(
        Section(
            "Verbs",
            (
                Verb("show", "key", "print the key, or where it is"),
                Verb("set", "key", "move this host to the mesh with another key"),
                Verb("new", "key", "make the key of a new mesh"),
            ),
        ),
    ),
    removed={},
    subcommand_metavar="VERB [ARGUMENTS]…",
    no_args_is_help=False,
)


@click.command()
@json_option
def show(as_json: bool) -> None:
    """Print the key on a terminal, elsewhere the path of its file.

    Output that goes to a file or a pipe is easily left lying about; the key's
    own file can be read by its owner only.

    \b
    Examples:
      meshd key show
      scp "$(meshd key show)" host2:mesh.key
    """
    _show(Paths.from_environment(), as_json=as_json)


@click.command()
@click.argument("key", required=False)
@click.option("--key-file", type=click.Path(path_type=Path), help="File with the key; - asks for it.")
@json_option
def set(key: str | None, key_file: Path | None, as_json: bool) -> None:
    """Move this host to the mesh with this key. The router must be stopped.

    The key comes from --key-file, from MESHD_KEY, from standard input, or is
    asked for. Given as an argument it can be seen by others for a moment.

    \b
    Examples:
      meshd key set --key-file mesh.key
      ssh host1 cat /var/lib/meshd/db/mesh.key | meshd key set
    """
    from meshd.daemon.keys import set_key

    paths = Paths.from_environment()
    set_key(paths, _given(key, key_file).reveal())
    if as_json:
        _show(paths, as_json=True)


@click.command()
@click.option("--force", is_flag=True, help="Replace the key that is there: this host leaves its mesh.")
@json_option
def new(force: bool, as_json: bool) -> None:
    """Make the key of a new mesh. The router must be stopped.

    \b
    Examples:
      meshd key new
      meshd key new --force
    """
    from meshd.daemon.keys import new_key

    paths = Paths.from_environment()
    new_key(paths, replace=force)
    _show(paths, as_json=as_json)


def _show(paths: Paths, *, as_json: bool) -> None:
    """The key itself goes to a terminal only; JSON is for programs, and names the file."""
    from meshd.daemon.keys import load_key

    key = load_key(paths)
    if as_json:
        say(render_json({"KeyFile": str(paths.key_file), "MeshId": key.mesh_id.hex(), "Suite": key.suite.name.lower()}))
        return
    say(f"{key.to_text() if is_terminal(sys.stdout) else paths.key_file}\n")


def _given(argument: str | None, key_file: Path | None) -> Secret:
    from_environment = take_from_environment("MESHD_KEY")
    if argument is not None and key_file is not None:
        raise UserError("a key and --key-file are both given", hint="give one of them", status=2)
    if argument is not None:
        secret = Secret(argument)
        wipe_argv([secret])
        warn("a key on the command line can be seen by others; use --key-file or MESHD_KEY")
        return secret
    if key_file == ASK:
        return read_secret("Mesh key")
    if key_file is not None:
        from meshd.daemon.files import read_secret_file

        return Secret(read_secret_file(key_file))
    if from_environment is not None:
        return from_environment
    return read_secret("Mesh key")
