"""attach and detach: containers in and out of the mesh."""

from __future__ import annotations

import click

from meshd.cli.common import json_option, router
from meshd.cli.terminal import say, warn
from meshd.config import DEFAULT_IFNAME
from meshd.control.client import check_container, check_ifname, parse_cidr
from meshd.control.render import render_json
from meshd.errors import UserError

__all__ = ["attach", "detach"]


@click.command()
@click.argument("arguments", nargs=-1, metavar="[CIDR]… CONTAINER")
@click.option(
    "--ifname", help=f"Name of the interface in the container.  [default: as it was, at first {DEFAULT_IFNAME}]"
)
@click.option(
    "--port-security/--no-port-security",
    default=None,
    help="Let only the container's own MAC and addresses pass as sources.  [default: as it was, at first no]",
)
@json_option
def attach(arguments: tuple[str, ...], ifname: str | None, port_security: bool | None, as_json: bool) -> None:
    """Plug a running container into the mesh and print its addresses.

    CONTAINER is the name, the id or the beginning of the id of a Docker
    container in any network mode but host, pid:N for the network namespace of
    a process, or netns:NAME for one of /run/netns. Repeating it does no harm.

    Without a CIDR the container is plugged in at layer 2: its MAC is printed.

    What no container may do (send router advertisements, answer DHCP, storm)
    is dropped at its interface. With --port-security so is every frame whose
    source MAC or address, in Ethernet, IP, ARP or ND, is not its own.

    \b
    Examples:
      meshd attach 10.0.1.5/24 web
      meshd attach 10.0.1.5/24 fd00::5/64 web
      meshd attach web
      meshd attach --ifname eth1 netns:blue
      meshd attach --port-security 10.0.1.5/24 web
    """
    addresses, container = _split(arguments, "attach")
    if ifname is not None:
        check_ifname(ifname)
    result = router().attach(container, addresses, ifname, port_security)
    if as_json:
        shown = {"Id": result.id, "Mac": result.mac, "Addresses": list(result.addresses)}
        say(render_json(shown))
        return
    if result.addresses:
        say(_bare(result.addresses) + "\n")
        return
    say(f"{result.mac}\n")
    warn(f"{container} has no address yet; give it one: meshd attach 10.0.1.5/24 {container}")


@click.command()
@click.argument("arguments", nargs=-1, metavar="[CIDR]… CONTAINER")
@json_option
def detach(arguments: tuple[str, ...], as_json: bool) -> None:
    """Take addresses from a container, or unplug it, and print what was taken.

    Without a CIDR all addresses and the interface go.

    \b
    Examples:
      meshd detach web
      meshd detach 10.0.1.5/24 web
    """
    addresses, container = _split(arguments, "detach")
    result = router().detach(container, addresses)
    if as_json:
        say(render_json({"Id": result.id, "Addresses": list(result.addresses)}))
    elif result.addresses:
        say(_bare(result.addresses) + "\n")


def _split(arguments: tuple[str, ...], verb: str) -> tuple[tuple[str, ...], str]:
    """Addresses come first, the container last."""
    if not arguments:
        raise click.UsageError("no container given")
    *addresses, container = arguments
    if _is_address(container):
        named = [argument for argument in addresses if not _is_address(argument)]
        order = f"meshd {verb} {container} {named[0] if named else 'CONTAINER'}"
        raise UserError("the container comes last" if named else "no container given", hint=f"write: {order}", status=2)
    check_container(container)
    return tuple(parse_cidr(address) for address in addresses), container


def _is_address(argument: str) -> bool:
    return not argument.startswith(("pid:", "netns:")) and ("/" in argument or argument.startswith(("ip:", "net:")))


def _bare(addresses: tuple[str, ...]) -> str:
    return " ".join(address.partition("/")[0] for address in addresses)
