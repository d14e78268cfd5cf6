"""A group of verbs that loads the module of a verb only when that verb is called: `status` must not pay for `launch`.

The table of verbs carries their one-line help, so that `meshd --help` loads none of them either.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import click

from meshd.errors import UserError

__all__ = ["EXIT_USAGE", "Section", "Verb", "Verbs"]

EXIT_USAGE = 2


@dataclass(slots=True, frozen=True)
class Verb:
    name: str
    module: str  # of meshd.cli
    help: str


@dataclass(slots=True, frozen=True)
class Section:
    title: str
    verbs: tuple[Verb, ...]


class Verbs(click.Group):
    """`sections`: what there is, in the order of the help. `removed`: what there was in Weave, and what to do instead."""

    def __init__(self, *, sections: Sequence[Section], removed: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._sections = sections
        self._verbs = {verb.name: verb for section in sections for verb in section.verbs}
        self._removed = removed

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self._verbs.get(cmd_name)
        if verb is None:
            return None
        module = importlib.import_module(f"meshd.cli.{verb.module}")
        return cast(click.Command, getattr(module, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if ctx.resilient_parsing:  # completion: the line is not ready, and an error would be written across it
            return super().resolve_command(ctx, args)
        if name in self._removed:
            raise UserError(f"'meshd {name}' was removed", hint=self._removed[name])
        if name not in self._verbs and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self._verbs, n=1)
            hint = (
                f"did you mean: {ctx.command_path} {near[0]}" if near else f"{ctx.command_path} --help lists all verbs"
            )
            raise UserError(f"unknown verb {name!r}", hint=hint, status=EXIT_USAGE)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in self._sections:
            with formatter.section(section.title):
                formatter.write_dl([(verb.name, verb.help) for verb in section.verbs], col_max=12)
