"""capture: inner frames as they pass this host's router, decoded here, in the command's own process."""

from __future__ import annotations

import binascii
import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import click

from meshd.cli.common import json_option, router
from meshd.cli.terminal import is_terminal, terminable, warn
from meshd.control.render import clean
from meshd.errors import UserError

__all__ = ["capture"]

Line = dict[str, Any]
Show = Callable[[Line, bytes], None]


@click.command()
@click.argument("words", nargs=-1, metavar="[CONTAINER|PEER|ADDRESS] [FILTER]")
@click.option("-w", "--write", "file", metavar="FILE", help="Write a pcapng file instead of lines; - is stdout.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N frames.")
@click.option("-v", "--verbose", is_flag=True, help="Show every field (needs scapy).")
@json_option
def capture(words: tuple[str, ...], file: str | None, count: int | None, verbose: bool, as_json: bool) -> None:
    """Show the frames that pass between this host and the mesh, until Ctrl-C.

    Each line has the time, the direction (out: into the mesh, in: out of it),
    the host at the other end, the size, and what the frame is. What is
    dropped on its way out is shown too, with the reason.

    Without an argument all frames are shown. The first word may name a
    container, a peer, or an IP or MAC address; the rest, or all, is a filter
    in the language of tcpdump (man pcap-filter). Quote it where it has ( ) or &.

    Outgoing TCP of one flow comes in super-frames of up to 64 KB, before it is
    cut, and checksums may be left to be finished, as in captures on any
    virtual interface. FILE is overwritten.

    \b
    Examples:
      meshd capture
      meshd capture web
      meshd capture web icmp
      meshd capture 10.0.1.5 'tcp port 80 or udp port 53'
      meshd capture host2 --count 10
      meshd capture -w web.pcapng web
      meshd capture -w - arp | wireshark -k -i -
    """
    if file == "-" and is_terminal(sys.stdout):
        raise UserError("a pcapng file would garble the terminal", hint="write into a file or a pipe")
    if file is not None and (as_json or verbose):
        raise UserError("-w writes frames, --json and -v print them: choose one", status=2)
    shown = lost = 0
    with contextlib.suppress(KeyboardInterrupt), terminable(), contextlib.ExitStack() as closing:
        stream = closing.enter_context(contextlib.closing(router().capture(words)))
        title = next(stream)  # the router has understood what is wanted: now the file may be overwritten
        show = _writer(closing.enter_context(_open_file(file))) if file else _printer(as_json=as_json, verbose=verbose)
        warn(f"capturing {clean(str(title.get('title')))}; Ctrl-C ends it")
        for line in stream:
            lost = line.get("lost", lost)
            if "frame" in line:
                shown += 1
                show(line, binascii.a2b_base64(line["frame"]))
            elif "end" in line:
                warn(str(line["end"]))
            if shown == count:
                break
    frames = "frame" if shown == 1 else "frames"
    warn(
        f"{shown} {frames} {'written' if file else 'shown'}"
        + (f", {lost} not shown: they came too fast" if lost else "")
    )


def _open_file(name: str) -> BinaryIO:
    """A link is not followed: root writing into a folder of everybody's must not be led elsewhere."""
    if name == "-":
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(Path(name), flags, 0o600), "wb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{name} is a symbolic link, which is not followed", hint="name the file itself") from None
        raise


def _writer(file: BinaryIO) -> Show:
    from meshd.cli.pcapng import file_header, packet

    file.write(file_header())
    file.flush()

    def write(line: Line, frame: bytes) -> None:
        inward = line["direction"] == "in"
        file.write(packet(frame, line["time"], inward=inward, comment=_whither(line)))
        file.flush()  # somebody may read it as it comes

    return write


def _printer(*, as_json: bool, verbose: bool) -> Show:
    import json

    from meshd.cli.frames import describe, load_decoder

    load_decoder()  # now: frames wait at the router meanwhile, and whoever interrupts has seen what came before

    def show(line: Line, frame: bytes) -> None:
        if as_json:
            shown = {
                "Time": line["time"],
                "Direction": line["direction"],
                "Peer": line["peer"],
                "Note": line["note"],
                "Size": len(frame),
                "Summary": describe(frame),
                "Frame": frame.hex(),
            }
            print(json.dumps(shown, ensure_ascii=False), flush=True)
            return
        second, fraction = divmod(line["time"], 1)
        clock = f"{time.strftime('%H:%M:%S', time.localtime(second))}.{int(fraction * 1e6):06d}"
        summary = describe(frame, verbose=verbose)
        print(clean(f"{clock} {_whither(line)}  {len(frame)}B  ") + summary, flush=True)

    return show


def _whither(line: Line) -> str:
    """`out 7a:…(host2)`, `in 7a:…(host2)`, `out to all`."""
    return f"{line['direction']:3} {line['peer'] or line['note'] or '-'}"
