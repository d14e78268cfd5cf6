"""completion: click's own completion scripts, under the name of our command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from meshd.cli.terminal import say

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script for your shell.

    \b
    Examples:
      meshd completion bash > /etc/bash_completion.d/meshd
      meshd completion zsh > "${fpath[1]}/_meshd"
      meshd completion fish > ~/.config/fish/completions/meshd.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    say(kind(ctx.find_root().command, {}, "meshd", "_MESHD_COMPLETE").source())
