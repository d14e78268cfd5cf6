"""What the router learns of the network below it, and work in a namespace that leaves everybody else's alone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from meshd.capture.containers import ContainerDetails, ContainerSummary, Target, resolve_target
from meshd.capture.netns import host_namespace_inode, in_namespace, namespace_ref, run_in_namespace
from meshd.capture.tap import open_tap
from meshd.capture.underlay import addresses_of_host, local_endpoints
from meshd.errors import UserError
from tests.netns.capture_helpers import Space, spaces


@pytest.fixture
def host(host: Space) -> Space:
    host.command("ip", "link", "add", "eth0", "mtu", "1460", "type", "veth", "peer", "name", "wire")
    for command in (
        "link set wire up",
        "link set eth0 up",
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 192.0.2.9/24 dev eth0",
        "addr add 169.254.7.7/16 dev eth0",
        "-6 addr add 2001:db8::1/64 dev eth0 nodad",
        "-6 addr add 2001:db8::2/64 dev eth0 nodad preferred_lft 0",
        "route add default via 192.0.2.254",
        "link add docker0 type bridge",
        "addr add 172.17.0.1/16 dev docker0",
        "link set docker0 up",
        "link add meshd type bridge",
        "addr add 10.2.0.1/16 dev meshd",
        "link set meshd up",
    ):
        host.command("ip", *command.split())
    return host


def test_endpoints_that_others_may_reach(host: Space) -> None:
    found = host.netlink(lambda ipr: local_endpoints(ipr, {"meshd"}))
    assert found == ["192.0.2.1", "192.0.2.9", "2001:db8::1"]
    with contextlib.closing(host.run(lambda: open_tap("tap0"))):
        host.command("ip", "addr", "add", "192.0.2.77/24", "dev", "tap0")
        host.command("ip", "link", "set", "tap0", "up")
        assert host.netlink(lambda ipr: local_endpoints(ipr, {"meshd"})) == found
    host.command("ip", "link", "set", "eth0", "down")
    assert host.netlink(lambda ipr: local_endpoints(ipr, {"meshd"})) == []


def test_all_addresses_for_recognising_ourselves(host: Space) -> None:
    found = host.netlink(addresses_of_host)
    assert {"127.0.0.1", "::1", "192.0.2.1", "172.17.0.1", "10.2.0.1", "2001:db8::1"} <= found


def test_work_in_a_namespace_leaves_ours_alone(host: Space) -> None:
    before = host_namespace_inode()
    names = set(os.listdir("/run/netns"))
    assert in_namespace(host.fd, host_namespace_inode) == host.inode != before
    assert run_in_namespace(host.fd, lambda ipr: len(list(ipr.get_links()))) > 3
    with pytest.raises(ZeroDivisionError):
        run_in_namespace(host.fd, lambda _: 1 // 0)
    with pytest.raises(FileExistsError):
        run_in_namespace(host.fd, lambda ipr: ipr.link("add", ifname="meshd", kind="bridge"))
    with open("/dev/null") as other, pytest.raises(OSError, match="cannot enter"):
        in_namespace(other.fileno(), lambda: None)
    assert host_namespace_inode() == before
    assert set(os.listdir("/run/netns")) == names


class NoEngine:
    """pid: and netns: do not ask Docker."""

    async def list_containers(self) -> Sequence[ContainerSummary]:
        raise AssertionError

    async def inspect(self, container_id: str) -> ContainerDetails:
        raise AssertionError(container_id)


def resolve(word: str) -> Target:
    return asyncio.run(resolve_target(word, NoEngine()))


def test_namespace_by_name_and_by_process(host: Space) -> None:
    by_name = resolve(f"netns:{host.name}")
    assert (by_name.namespace.inode, by_name.pid, by_name.id) == (host.inode, 0, f"netns:{host.name}")
    with in_other_process(host) as pid:
        by_pid = resolve(f"pid:{pid}")
        assert (by_pid.namespace.inode, by_pid.pid) == (host.inode, pid)
        fd = by_pid.namespace.open()
        assert os.fstat(fd).st_ino == host.inode.number
        os.close(fd)
    with pytest.raises(UserError, match="does not run"):
        by_pid.namespace.open()
    with pytest.raises(UserError, match="no process"):
        resolve(f"pid:{pid}")


@contextlib.contextmanager
def in_other_process(space: Space) -> Iterator[int]:
    """A process in the namespace; `cat` waits for its input and so is ready once it has echoed a line."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", space.name, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(b"ready\n")
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def test_namespace_that_was_replaced_is_noticed(host: Space) -> None:
    with spaces("other") as (other,):
        ref = namespace_ref("netns", "blue", f"/run/netns/{host.name}")
        swapped = dataclasses.replace(ref, path=f"/run/netns/{other.name}")
        with pytest.raises(UserError, match="replaced"):
            swapped.open()


def test_own_namespace_is_refused(host: Space) -> None:
    with pytest.raises(UserError, match="uses the host's network"):
        resolve(f"pid:{os.getpid()}")
    with pytest.raises(UserError, match="uses the host's network"):
        host.run(lambda: resolve(f"netns:{host.name}"))  # for a router in that namespace it is the host's


def test_what_is_no_network_namespace(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a network namespace"):
        namespace_ref("pid", "file", "/dev/null")
    with pytest.raises(UserError, match="is not a network namespace"):
        namespace_ref("pid", "other kind", f"/proc/{os.getpid()}/ns/uts")
    with pytest.raises(UserError, match="no network namespace"):
        namespace_ref("pid", "gone", str(tmp_path / "nothing"))
