"""The verbs that only ask: status, report, ps, version. They load click, the control client and the renderer, nothing more."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from meshd import __version__
from meshd.cli.common import json_option, router
from meshd.cli.group import EXIT_USAGE
from meshd.cli.terminal import painter, say, warn
from meshd.control import render
from meshd.control.client import EXIT_NOT_RUNNING
from meshd.errors import UserError

__all__ = ["ps", "report", "status", "version"]

_Listing = Callable[[dict[str, Any], render.Paint], str]
_LISTINGS: dict[str, tuple[_Listing, str]] = {
    "peers": (render.render_peers, "Peers"),
    "connections": (render.render_connections, "Connections"),
    "targets": (render.render_targets, "Targets"),
    "macs": (render.render_macs, "MACs"),
}
_STATUS_USAGE = f"meshd status [{'|'.join(_LISTINGS)}]"
_MIN_WATCH_S, _MAX_WATCH_S = 0.1, 86400.0


def _seconds(_ctx: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    if text in _LISTINGS:
        raise click.UsageError(f"--watch comes last: meshd status {text} --watch")
    try:
        seconds = float(text)
    except ValueError:
        raise click.UsageError(f"--watch {text!r} is no number of seconds") from None
    if not _MIN_WATCH_S <= seconds <= _MAX_WATCH_S:
        raise click.UsageError(f"--watch {text} is not between {_MIN_WATCH_S} and {_MAX_WATCH_S:.0f} seconds")
    return seconds


@click.command()
@click.argument(
    "part",
    required=False,
    metavar=f"[{'|'.join(_LISTINGS)}]",
    shell_complete=lambda _ctx, _argument, begun: [part for part in _LISTINGS if part.startswith(begun)],
)
@click.option(
    "--watch",
    "seconds",
    is_flag=False,
    flag_value="2",
    metavar="[SECONDS]",
    callback=_seconds,
    help="Show it again every 2 or SECONDS seconds, until Ctrl-C.",
)
@json_option
def status(part: str | None, seconds: float | None, as_json: bool) -> int:
    """Show what is going on: this router, its peers, paths and MAC tables.

    \b
    peers        every host of the mesh with its connections
    connections  control connections of this host: -> dialled, <- accepted
    targets      the peers given to launch and connect
    macs         who has which MAC

    \b
    Examples:
      meshd status
      meshd status connections
      meshd status macs --json
      meshd status --watch
      meshd status connections --watch 0.5

    Exit status 0 means that the router runs.
    """
    if part is not None and part not in _LISTINGS:
        # as Weave says it
        print(f"Invalid 'meshd status' sub-command: {part}\nusage: {_STATUS_USAGE}", file=sys.stderr)
        return EXIT_USAGE
    if seconds is None:
        say(_status(part, as_json))
        return 0
    from meshd.cli.watch import watch

    watch(lambda: _status(part, as_json), seconds)
    return 0


def _status(part: str | None, as_json: bool) -> str:
    answer: dict[str, Any] = router().status()
    if part is None:
        return render.render_json(answer) if as_json else render.render_status(answer, painter(sys.stdout))
    listing, key = _LISTINGS[part]
    return render.render_json(answer["Router"][key]) if as_json else listing(answer, painter(sys.stdout))


@click.command()
@click.option("-f", "--format", "template", metavar="TEMPLATE", help="Print through this Go template.")
@click.option("--json", "_json", is_flag=True, help="Print JSON: what report does without a template.")
def report(template: str | None, _json: bool) -> None:
    """Print everything that the router shows of itself, as JSON.

    \b
    Examples:
      meshd report
      meshd report | jq .Router.Connections
      meshd report -f '{{.Router.Name}}({{.Router.NickName}})'
      meshd report -f '{{range .Router.Targets}}{{.}}{{"\\n"}}{{end}}'

    A template knows field chains, len, json, range and string literals.
    """
    answer = router().status()
    if template is None:
        say(render.render_json(answer))
        return
    from meshd.cli.gotemplate import render_template

    say(render_template(template, answer))


@click.command()
@click.argument("containers", nargs=-1, metavar="[CONTAINER]…")
@json_option
def ps(containers: tuple[str, ...], as_json: bool) -> None:
    """List attached containers: id, MAC and addresses, one container a line.

    The first line, `expose`, is this host's own port of the bridge. A container
    that is not attached gets no line.

    \b
    Examples:
      meshd ps
      meshd ps web
      meshd ps web --json
    """
    answer = router().ps()
    if not as_json:
        say(render.render_ps(answer, containers))
    elif containers:
        say(render.render_json([one for name in containers for one in render.find_attachments(answer, name)]))
    else:
        say(render.render_json(answer))


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version of this command, and of the router where one runs.

    \b
    Example:
      meshd version
    """
    try:
        running = router().version()
    except UserError as error:
        if error.status != EXIT_NOT_RUNNING:
            warn(str(error))
        running = {}
    if as_json:
        say(render.render_json({"Version": __version__, "Router": running.get("version"), "Pid": running.get("pid")}))
        return
    say(f"meshd {__version__}\n")
    if running:
        say(f"router {running.get('version')} (pid {running.get('pid')})\n")
