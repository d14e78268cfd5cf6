"""launch: start the router of this host, in the background or in the foreground."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshd.cli.common import json_option
from meshd.cli.secrets import ASK, read_secret, take_from_environment, wipe_argv
from meshd.cli.terminal import is_terminal, say, warn
from meshd.config import DEFAULT_BRIDGE, DEFAULT_MESH, LaunchOptions, Paths, Secret
from meshd.control.client import parse_target
from meshd.control.render import render_json
from meshd.ids import DEFAULT_PORT

if TYPE_CHECKING:
    from meshd.daemon.launch import LaunchResult

__all__ = ["join_command", "launch"]

LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.argument("peers", nargs=-1, metavar="[PEER]…")
@click.option("--peers", "more_peers", multiple=True, metavar="PEER,…", help="Peers, separated by commas; repeatable.")
@click.option("--foreground", is_flag=True, help="Do not go into the background; log to stderr.")
@click.option("--bridge", default=DEFAULT_BRIDGE, show_default=True, help="Name of the bridge device.")
@click.option(
    "--capture",
    default="tap",
    show_default=True,
    metavar="tap|pcap:IFACE",
    help="Frames come from a TAP in the bridge, or from an interface or bridge that is there.",
)
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="TCP and UDP port; also of peers that are named without one.",
)
@click.option("--host", metavar="IP", help="Address to listen on (default: all).")
@click.option(
    "--advertise",
    metavar="ADDR[:PORT],…",
    multiple=True,
    help="Address at which others reach this host, if it cannot find that out itself.",
)
@click.option("--mtu", type=int, help="MTU of containers' interfaces (default: from the underlay, 1372 at 1500).")
@click.option("--mesh", default=DEFAULT_MESH, show_default=True, help="Name of the mesh; it salts a password.")
@click.option("--name", metavar="MAC", help="Peer name (default: from the host's key).")
@click.option("--nickname", help="Name for people (default: the host name).")
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "native", "python"]),
    help="Data plane: native is C, auto takes it where it could be built.",
)
@click.option(
    "--pump",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "loop", "thread"]),
    help="Who moves frames in the native engine: a thread of its own, or the loop that does all else, too.",
)
@click.option("--no-discovery", is_flag=True, help="Connect to the given peers only.")
@click.option("--no-restart", is_flag=True, help="Do not start the router again when it dies.")
@click.option("--resume", is_flag=True, help="Use the peers of the last run.")
@click.option("--key", metavar="KEY", help="The mesh's key; visible to others for a moment, better --key-file.")
@click.option("--key-file", type=click.Path(path_type=Path), help="File with the mesh's key; - asks for it.")
@click.option("--password", metavar="TEXT", help="A password in place of a key; better --password-file.")
@click.option("--password-file", type=click.Path(path_type=Path), help="File with the password; - asks for it.")
@click.option("--log-level", default="info", show_default=True, type=click.Choice(LOG_LEVELS), help="What to log.")
@click.option("--rekey-interval", type=float, hidden=True)
@json_option
def launch(
    peers: tuple[str, ...],
    more_peers: tuple[str, ...],
    foreground: bool,
    bridge: str,
    capture: str,
    port: int,
    host: str | None,
    advertise: tuple[str, ...],
    mtu: int | None,
    mesh: str,
    name: str | None,
    nickname: str | None,
    engine: str,
    pump: str,
    no_discovery: bool,
    no_restart: bool,
    resume: bool,
    key: str | None,
    key_file: Path | None,
    password: str | None,
    password_file: Path | None,
    log_level: str,
    rekey_interval: float | None,
    as_json: bool,
) -> int:
    """Start the router of this host; return when it is ready.

    The first host makes the mesh's key and prints the command for the others.
    One PEER is enough: every host learns of every other. Peers that do not
    answer yet are dialled until they do.

    A key or password comes from --key-file or --password-file, from MESHD_KEY
    or MESHD_PASSWORD, or from --key or --password. It is stored: later
    launches need none. Who records a handshake with a router that uses a
    password can try passwords at home: prefer a key, or use a long one.

    \b
    Examples:
      meshd launch                                      the first host
      meshd launch --key-file mesh.key --peers host1    every other host
      meshd launch --resume                             after a stop
      meshd launch --foreground --key-file mesh.key     under a service manager
      meshd launch --capture pcap:br0 --peers host1     for what is on br0
    """
    given_key, given_password = _secrets(key, password, from_file=key_file is not None or password_file is not None)
    if key_file == ASK:
        given_key, key_file = read_secret("Mesh key"), None
    if password_file == ASK:
        given_password, password_file = read_secret("Password"), None
    options = LaunchOptions(
        peers=_peers(peers, more_peers),
        foreground=foreground,
        bridge=bridge,
        capture=capture,
        port=port,
        advertise=_listed(advertise),
        host=host,
        mtu=mtu,
        mesh=mesh,
        name=name,
        nickname=nickname,
        engine=engine,
        pump=pump,
        discovery=not no_discovery,
        restart=not no_restart,
        resume=resume,
        key=given_key,
        key_file=key_file,
        password=given_password,
        password_file=password_file,
        log_level=log_level,
        rekey_interval_s=rekey_interval,
    )
    paths = Paths.from_environment()
    if foreground:
        return _run_here(options, paths)
    from meshd.daemon.launch import launch as start

    result = start(options, paths, warn)
    for warning in result.warnings:
        warn(warning)
    if result.founded and options.peers:
        warn(
            "no key was given, so this is a new mesh; to join that of the peers instead: meshd stop, then meshd key set"
        )
    say(_json(result) if as_json else _told(result, show_key=is_terminal(sys.stdout)))
    return 0


def _secrets(key: str | None, password: str | None, *, from_file: bool) -> tuple[Secret | None, Secret | None]:
    """What was typed wins over the environment, which is emptied either way."""
    from_environment = (take_from_environment("MESHD_KEY"), take_from_environment("MESHD_PASSWORD"))
    typed = (Secret(key) if key is not None else None, Secret(password) if password is not None else None)
    for what, secret, name in (("key", typed[0], "MESHD_KEY"), ("password", typed[1], "MESHD_PASSWORD")):
        if secret is not None:
            wipe_argv([secret])
            warn(f"a {what} on the command line can be seen by others; use --{what}-file or {name}")
    return typed if from_file or any(typed) else from_environment


def _listed(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Options that may be given again, and hold commas."""
    return tuple(dict.fromkeys(one for text in texts for one in text.replace(",", " ").split()))


def _peers(positional: tuple[str, ...], listed: tuple[str, ...]) -> tuple[str, ...]:
    """Every peer once, in the order given; each one checked."""
    peers = [peer for text in (*positional, *listed) for peer in text.replace(",", " ").split()]
    for peer in peers:
        parse_target(peer)
    return tuple(dict.fromkeys(peers))


def _run_here(options: LaunchOptions, paths: Paths) -> int:
    """The router in this process. A service manager's SIGTERM is an orderly end."""
    from meshd.daemon.launch import prepare
    from meshd.daemon.preflight import host_nickname
    from meshd.daemon.run import configure_logging, run_router
    from meshd.daemon.supervise import EXIT_REFUSED

    options = replace(options, nickname=options.nickname or host_nickname())
    prepared = prepare(options, paths)
    for warning in prepared.warnings:
        warn(warning)
    if prepared.founded:
        warn(f"this host founded a mesh; its key is in {paths.key_file}")
    configure_logging(options.log_level)
    if run_router(options, paths) != EXIT_REFUSED:
        return 0
    prepared.undo()
    return 1


def _told(result: LaunchResult, *, show_key: bool) -> str:
    text = f"meshd runs as {result.name}({result.nickname}), pid {result.pid}\n"
    if not result.founded:
        return text
    if show_key:
        lead = "This host founded a mesh. On each other host run this, and give it the key when it asks:"
        key = f"The key, which makes whoever has it a member:\n\n    {result.key.reveal()}\n\n"
    else:
        lead = f"This host founded a mesh. Copy {result.key_file} to each other host and run there:"
        key = ""
    return f"{text}\n{lead}\n\n    {join_command(result, ask=show_key)}\n\n{key}"


def join_command(result: LaunchResult, *, ask: bool) -> str:
    """What brings another host into the mesh. The key itself is never part of a command: it would end in a history file."""
    peer = result.addresses[0] if result.addresses else "ADDRESS-OF-THIS-HOST"
    if result.port != DEFAULT_PORT:
        peer = f"[{peer}]:{result.port}" if ":" in peer else f"{peer}:{result.port}"
    return f"meshd launch --key-file {'-' if ask else result.key_file.name} --peers {peer}"


def _json(result: LaunchResult) -> str:
    return render_json(
        {
            "Name": result.name,
            "NickName": result.nickname,
            "Pid": result.pid,
            "Founded": result.founded,
            "KeyFile": str(result.key_file),
            "Port": result.port,
            "Addresses": list(result.addresses),
            "Warnings": list(result.warnings),
        }
    )
