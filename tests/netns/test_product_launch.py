"""The first command on a host: founding a mesh, and everything that it refuses without leaving a trace."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import MESHD, Container, Done, Host, Lab, Space, until

KEY = re.compile(r"mk1-\S+")
SPARE = "mk1-AAAA"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, 1) as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Host:
    """A host that never saw meshd."""
    return lab.hosts[0]


# ── founding


def test_first_launch_founds_a_mesh(host: Host) -> None:
    done = host.meshd("launch", "--peers", "host2.invalid,10.9.0.77")
    key = host.key_file.read_text().strip()
    assert KEY.fullmatch(key)
    assert stat.S_IMODE(host.key_file.stat().st_mode) == 0o600
    assert key not in done.out + done.err
    assert str(host.key_file) in done.out
    assert f"--peers {host.address}" in done.out
    states = until(
        lambda: len(lines := host.meshd("status", "connections").out.splitlines()) == 2 and lines, "both dialled"
    )
    assert isinstance(states, list)
    assert host.meshd("status", "targets").out == "host2.invalid\n10.9.0.77\n"
    assert host.meshd("key", "show").out.strip() == str(host.key_file)

    # Nobody else of this machine may read what belongs to the router.
    readable = [
        path for path in host.folder.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077 and not path.is_dir()
    ]
    assert [path.name for path in readable if key.encode() in path.read_bytes()] == []
    assert stat.S_IMODE(host.key_file.parent.stat().st_mode) == 0o700
    secret_files = {"mesh.key", "identity", "state.sqlite"}
    assert not secret_files & {path.name for path in readable}
    assert key not in host.log
    assert not any(key.encode() in cmdline(pid) for pid in host.pids())


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def on_terminal(host: Host, *arguments: str) -> str:
    """What a person at a terminal sees."""
    leader, follower = pty.openpty()
    words = host.inside(MESHD, *arguments)
    environment = {**host.environment, "MESHD_DIR": str(host.folder), "TERM": "xterm"}
    shown = b""
    with subprocess.Popen(words, stdin=follower, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        with contextlib.suppress(OSError):  # EIO: the last writer has closed it
            while select.select([leader], [], [], 30)[0] and (data := os.read(leader, 4096)):
                shown += data
        assert process.wait(30) == 0
    os.close(leader)
    return shown.decode()


def test_key_is_shown_on_a_terminal(host: Host) -> None:
    """`key show` is there for it; what launch prints names the one command for the others."""
    told = on_terminal(host, "launch")
    key = host.key_file.read_text().strip()
    assert key in told
    assert host.address in told
    assert key in on_terminal(host, "key", "show")
    assert key not in on_terminal(host, "status")


def test_json_of_launch_has_no_key(host: Host) -> None:
    answer = json.loads(host.meshd("launch", "--json").out)
    assert answer["Founded"] is True
    assert answer["Pid"] == host.pid
    assert answer["KeyFile"] == str(host.key_file)
    assert host.key_file.read_text().strip() not in json.dumps(answer)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--key", "KEY"], {}),
        (["--key-file", "FILE"], {}),
        ([], {"MESHD_KEY": "KEY"}),
        (["--password", "PASSWORD"], {}),
        (["--password-file", "PWFILE"], {}),
        ([], {"MESHD_PASSWORD": "PASSWORD"}),
    ],
)
def test_no_secret_can_be_seen(
    lab: Lab, host: Host, tmp_path: Path, arguments: list[str], environment: dict[str, str]
) -> None:
    """However it was given: not in a command line, an environment, the log or a readable file of what runs then."""
    host.meshd("key", "new")
    key = host.key_file.read_text().strip()
    host.meshd("reset")
    password = "correct horse battery staple"
    values = {"KEY": key, "PASSWORD": password, "FILE": str(tmp_path / "key"), "PWFILE": str(tmp_path / "password")}
    for name, text in (("FILE", key), ("PWFILE", password)):
        Path(values[name]).write_text(text + "\n")
        Path(values[name]).chmod(0o600)
    given = [values.get(word, word) for word in arguments]
    done = host.meshd("launch", *given, environment={name: values[value] for name, value in environment.items()})
    secrets = {key, password, host.key_file.read_text().strip()}
    processes = host.pids()
    assert len(processes) == 2
    for pid in processes:
        seen = cmdline(pid) + Path(f"/proc/{pid}/environ").read_bytes()
        assert not any(secret.encode() in seen for secret in secrets)
    shown = done.out + done.err + host.log + host.meshd("report").out
    assert not any(secret in shown for secret in secrets)
    readable = [path for path in host.folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert not any(secret.encode() in path.read_bytes() for path in readable for secret in secrets)
    if "--key" in arguments or "--password" in arguments:
        assert "can be seen by others" in done.err


# ── refused, and as if never asked


def test_bad_options_leave_no_trace(host: Host, tmp_path: Path) -> None:
    before = host.everything()
    empty = tmp_path / "empty"
    empty.touch()
    for arguments, words in (
        (["--key", SPARE], ("key",)),
        (["--key", "hello"], ("key",)),
        (["--key-file", "/nonexistent/mesh.key"], ("cannot read the key file",)),
        (["--key-file", str(empty)], ("empty",)),
        (["--password", "short"], ("5 characters", "12")),
        (["--key", "x", "--password", "long enough to be one"], ("more than one",)),
        (["--peers", "host2:0"], ("malformed peer",)),
        (["--peers", "10.0.0.256"], ("malformed peer",)),
        (["fd00::1:70000]"], ("malformed peer",)),
        (["--peers", "ho st/2"], ("malformed peer",)),
        (["--mtu", "100"], ("MTU", "576")),
        (["--mtu", "16001"], ("MTU", "16000")),
        (["--bridge", "twelve-chars"], ("bridge", "11")),
        (["--port", "70000"], ("--port",)),
        (["--host", "localhost"], ("--host", "IP address")),
        (["--host", "10.9.0.200"], ("10.9.0.200",)),
        (["--name", "12"], ("--name",)),
        (["--nickname", "two words"], ("nickname",)),
        (["--engine", "fast"], ("--engine",)),
        (["--resume", "--peers", "host2"], ("--resume",)),
        (["--no-such-option"], ("--no-such-option", "meshd launch --help")),
    ):
        host.meshd("launch", *arguments, check=False).refused(*words)
        assert host.everything() == before, arguments


def test_unknown_verbs(host: Host) -> None:
    before = host.everything()
    for verb in ("attatch", "frobnicate", "weave", "run", "launch-proxy"):
        done = host.meshd(verb, check=False)
        assert done.status == (1 if verb in ("run", "launch-proxy") else 2)
        done.refused(verb)
    assert "attach" in host.meshd("attatch", check=False).err
    done = host.meshd("status", "dns", check=False)
    assert done.err.splitlines() == [
        "Invalid 'meshd status' sub-command: dns",
        "usage: meshd status [peers|connections|targets|macs]",
    ]
    assert host.everything() == before


def test_without_root(host: Host) -> None:
    """As a user who may not: setpriv takes the rights away, everything else is as before."""
    before = host.everything()
    rights = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    environment = {**host.environment, "MESHD_DIR": str(host.folder)}
    run = subprocess.run(
        host.inside(*rights, MESHD, "launch"),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd="/",
    )
    Done(status=run.returncode, out=run.stdout, err=run.stderr).refused("root", "sudo")
    assert host.everything() == before


def test_without_dev_net_tun(host: Host) -> None:
    before = host.everything()
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    done = host.run(
        "env", f"MESHD_DIR={host.folder}", "unshare", "-m", "sh", "-c", hide, "sh", MESHD, "launch", check=False
    )
    done.refused("/dev/net/tun is missing", "modprobe tun")
    assert host.everything() == before


def taken(space: Space, kind: int, port: int = 6783) -> socket.socket:
    sock = space.socket(socket.AF_INET, kind)
    sock.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        sock.listen(1)
    return sock


@pytest.mark.parametrize(("kind", "name"), [(socket.SOCK_DGRAM, "UDP"), (socket.SOCK_STREAM, "TCP")])
def test_a_port_in_use_is_named(host: Host, kind: int, name: str) -> None:
    before = without_tables(host.everything())
    with taken(host, kind):
        host.meshd("launch", check=False).refused(name, "6783")
    until(lambda: host.pids() == [], "its processes have ended")
    assert without_tables(host.everything()) == before
    host.meshd("launch")


def without_tables(everything: dict[str, object]) -> dict[str, object]:
    """iptables makes its tables when it looks into them; no rule of ours may stay in them."""
    assert "meshd" not in str(everything["rules"])
    return {part: value for part, value in everything.items() if part != "rules"}


def test_devices_of_others_are_named(host: Host) -> None:
    host.ip("link", "add", "meshd", "type", "veth", "peer", "name", "other")
    before = host.everything()
    host.meshd("launch", check=False).refused("meshd exists already", "not a bridge", "--bridge")
    assert host.everything() == before
    host.ip("link", "del", "meshd")
    host.ip("link", "add", "meshd-tap", "type", "veth", "peer", "name", "other")
    before = host.everything()
    host.meshd("launch", check=False).refused("meshd-tap exists already", "--bridge")
    assert host.everything() == before


# ── many routers on one machine


def test_two_routers_in_one_namespace(lab: Lab, host: Host, tmp_path: Path) -> None:
    other = tmp_path / "other"
    host.launch()
    key = lab.key_copy(host)
    first = host.everything()
    before = without_tables({**first, "rules": ""})

    for arguments, words in (
        ([], ("meshd-tap exists already", "--bridge")),
        (["--bridge", "second"], ("UDP port 6783", "--port")),
        (["--port", "6799"], ("meshd-tap exists already", "--bridge")),
    ):
        host.meshd("launch", "--key-file", key, *arguments, folder=other, check=False).refused(*words)
        until(lambda: len(host.pids()) == 2, "what it started has ended")
        assert without_tables({**host.everything(), "rules": ""}) == before
        assert not other.exists()
    assert host.everything()["rules"] == first["rules"]

    more = [
        "--key-file",
        key,
        "--bridge",
        "second",
        "--port",
        "6799",
        "--peers",
        "127.0.0.1:6783",
        "--nickname",
        "other",
    ]
    host.meshd("launch", *more, folder=other)
    until(lambda: "(other)" in host.meshd("status", "connections").out, "they are connected")
    containers = [lab.container(), lab.container()]
    host.attach(containers[0], "10.32.0.1/24")
    host.meshd("attach", "10.32.0.2/24", containers[1].word, folder=other)
    containers[0].reach("10.32.0.2")
    assert containers[0].name not in host.meshd("ps", folder=other).out
    host.meshd("reset", folder=other)
    assert not other.exists()
    assert not containers[1].has()
    assert "second" not in host.ip("link")
    assert "second" not in host.run("iptables", "-S").out
    assert "-i meshd -o meshd" in host.run("iptables", "-S").out
    assert host.meshd("ps").out.splitlines()[1].endswith("10.32.0.1/24")


# ── containers that cannot be attached


def test_attach_refuses_what_cannot_be(lab: Lab, host: Host) -> None:
    host.launch()
    container = lab.container()
    with sleeping(container) as pid, sleeping(host) as on_host:
        before = host.everything(), container.ip("-j", "addr"), host.meshd("ps").out
        for arguments, words in (
            (["10.32.0.1", container.word], ("10.32.0.1", "prefix length")),
            (["10.32.0.1/33", container.word], ("10.32.0.1/33", "prefix length")),
            (["10.32.0.0/24", container.word], ("network address",)),
            (["10.32.0.255/24", container.word], ("broadcast address",)),
            (["300.1.1.1/24", container.word], ("malformed address",)),
            (["fd32::zz/64", container.word], ("malformed address",)),
            (["224.0.0.1/24", container.word], ("multicast",)),
            (["net:10.32.0.0/24", container.word], ("automatic address",)),
            (["10.32.0.1/24"], ("no container",)),
            ([container.word, "10.32.0.1/24"], ("the container comes last",)),
            ([], ("no container",)),
            (["netns:nobody-has-this"], ("no network namespace 'nobody-has-this'", "ip netns")),
            (["pid:0"], ("pid:0",)),
            (["pid:4194303"], ("no process 4194303",)),
            (["pid:1x"], ("pid:",)),
            ([f"pid:{on_host}"], ("host's network",)),
            (["some-container"], ("Docker does not answer", "DOCKER_HOST")),
            (["--ifname", "much-too-long-for-linux", container.word], ("interface name",)),
            (["--ifname", "lo", container.word], ("lo",)),
        ):
            done = host.meshd("attach", *arguments, check=False)
            done.refused(*words)
            assert (host.everything(), container.ip("-j", "addr"), host.meshd("ps").out) == before, arguments
        host.meshd("detach", container.word, check=False).refused("is not attached", "meshd ps")
        host.meshd("attach", f"pid:{pid}")  # the namespace of a process
        assert container.has()


@contextlib.contextmanager
def sleeping(space: Space) -> Iterator[int]:
    """A process in the namespace."""
    with subprocess.Popen(space.inside("sleep", "600")) as process:
        try:
            until(lambda: process.pid in space.pids(), "it has entered")
            yield process.pid
        finally:
            process.kill()


def test_attach_and_detach_by_address(lab: Lab, host: Host) -> None:
    host.launch()
    container = lab.container()
    done = host.meshd("attach", container.word)
    assert done.out == f"{container.mac()}\n"
    assert "meshd attach 10." in done.err  # how to give it an address
    mac = container.mac()
    assert host.attach(container, "10.32.0.1/24").out == "10.32.0.1\n"
    links = container.ip("-j", "link")
    assert host.attach(container, "10.32.0.1/24").out == "10.32.0.1\n"
    assert container.ip("-j", "link") == links
    assert host.attach(container, "ip:10.33.0.1/16", "fd32::1/64").out == "10.33.0.1 fd32::1\n"
    assert container.mac() == mac
    assert addresses(container) == {"10.32.0.1", "10.33.0.1", "fd32::1"}
    assert host.meshd("ps").out.splitlines()[1].split()[1:] == [mac, "10.32.0.1/24", "10.33.0.1/16", "fd32::1/64"]
    assert host.meshd("detach", "10.32.0.1/24", container.word).out == "10.32.0.1\n"
    assert addresses(container) == {"10.33.0.1", "fd32::1"}
    host.meshd("detach", "10.32.0.1/24", container.word, check=False).refused("does not have 10.32.0.1/24")
    assert host.meshd("detach", container.word).out == "10.33.0.1 fd32::1\n"
    assert not container.has()
    assert len(host.meshd("ps").out.splitlines()) == 1
    assert host.report()["Router"]["MACs"] == []


def addresses(container: Container) -> set[str]:
    (link,) = json.loads(container.ip("-j", "addr", "show", "mesh0"))
    return {entry["local"] for entry in link["addr_info"] if entry["scope"] == "global"}
