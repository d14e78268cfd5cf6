"""ping and trace: does it answer, and which way does a frame take?"""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from meshd.cli.common import json_option, router
from meshd.cli.terminal import painter, say
from meshd.control.client import check_inquiry
from meshd.control.render import render_json
from meshd.control.render_inquiry import render_ping, render_summary, render_trace

__all__ = ["ping", "trace"]

_MAX_COUNT = 1_000_000


@click.command()
@click.argument("target", metavar="PEER|ADDRESS|CONTAINER")
@click.option("-c", "--count", type=click.IntRange(1, _MAX_COUNT), default=5, show_default=True, help="Ask so often.")
@click.option(
    "-i", "--interval", type=click.FloatRange(0.0, 3600.0), default=1.0, show_default=True, help="Seconds between two."
)
@json_option
def ping(target: str, count: int, interval: float, as_json: bool) -> int:
    """Ask the router that has a peer, address or container whether it is there.

    The question and its answer travel as frames do: sealed, over the path in
    use, through relays where there are some. The container itself is not asked.

    \b
    Examples:
      meshd ping host2
      meshd ping 10.0.1.5
      meshd ping -c 1 web

    Exit status 0 means that something answered, 1 that nothing did.
    """
    word = check_inquiry(target)
    answers: list[dict[str, Any]] = []
    try:
        for number in range(count):
            if number:
                time.sleep(interval)
            answers.append(router().ping(word))
            if not as_json:
                say(render_ping(answers[-1], painter(sys.stdout)))
                sys.stdout.flush()
            if answers[-1]["Path"] is None:
                break
    except KeyboardInterrupt:
        if not answers:
            raise
    rtts = [answer["RttMs"] for answer in answers]
    if as_json:
        say(render_json(answers))
    elif answers[-1]["Path"] is not None:
        say(render_summary(rtts))
    return 0 if any(rtt is not None for rtt in rtts) else 1


@click.command()
@click.argument("target", metavar="ADDRESS|CONTAINER|PEER")
@json_option
def trace(target: str, as_json: bool) -> int:
    """Show the way of a frame from this host, leg by leg, and why it goes there.

    Each router on the way is asked about its own leg. Nothing is sent to the
    container itself.

    \b
    Examples:
      meshd trace 10.0.1.5
      meshd trace web
      meshd trace host2 --json

    Exit status 0 means that the router at the end answered, 1 that it did not.
    """
    answer: dict[str, Any] = router().trace(check_inquiry(target))
    say(render_json(answer) if as_json else render_trace(answer, painter(sys.stdout)))
    return 0 if answer["RttMs"] is not None else 1
