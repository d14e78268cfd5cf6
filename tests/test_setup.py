"""The set-up scripts of packaging/ against an invented machine: a PATH that holds only what the test puts into it.

Commands are little scripts that write down how they were called, so the tests see what would be installed, started and linked, and
that no secret reaches an argument list. The real thing is tried by packaging/try-fresh.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASH = shutil.which("bash") or "/bin/bash"
# What the scripts use of any Debian's essential packages.
ESSENTIAL = (
    *("awk", "bash", "cat", "chmod", "dirname", "env", "flock", "grep", "head", "id"),
    *("ldd", "ln", "mktemp", "readlink", "rm", "sha256sum", "tail"),
)
SECRET = "mk1-a-very-secret-key"
PRESENT = ("gcc", "ip", "iptables", "nft", "dockerd", "ethtool", "iperf3", "ping", "ps", "tcpdump")


class Machine:
    """A tree with a copy of packaging/, and a bin folder as the whole PATH."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.bin = folder / "bin"
        self.log = folder / "calls"
        self.temporary = folder / "temporary"
        for path in (self.tree, self.bin, self.temporary):
            path.mkdir()
        shutil.copytree(ROOT / "packaging", self.tree / "packaging")
        # The scripts add the administration folders to PATH; this machine's own must not shine through.
        library = self.tree / "packaging/lib.sh"
        text = library.read_text()
        assert "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin\n" in text
        assert "in /usr/bin/python3 python3 " in text  # nor its Python
        text = text.replace("PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin\n", "").replace("/usr/bin/python3 ", "")
        library.write_text(text)
        self.native = self.tree / "meshd/forward/engine/native"
        self.native.mkdir(parents=True)
        (self.native / "core.c").write_text("int core;\n")
        for name in ESSENTIAL:
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)
        self.command("id", "echo ${FAKE_UID:-0}")
        self.command("uname", "echo aarch64")  # where there is no libipsec-mb to ask for

    def command(self, name: str, body: str = "") -> Path:
        return self.script(self.bin / name, body)

    def script(self, path: Path, body: str = "") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f'#!{BASH}\necho "{path.name} $*" >>"{self.log}"\n{body}\n')
        path.chmod(0o755)
        return path

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.tree / "packaging" / script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": str(self.bin), "TMPDIR": str(self.temporary), **environment},
        )

    def calls(self, name: str = "") -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if not name or line.split(" ")[0] == name]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def only_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stdout + result.stderr).splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# --- setup-system ---------------------------------------------------------------------------------------------------------


def with_apt(machine: Machine, *, provides: tuple[str, ...] = PRESENT, extra: str = "") -> None:
    """An apt-get that puts `provides` into the PATH; `extra` runs before, with the arguments."""
    made = "\n".join(f'ln -sf "{sys.executable}" "{machine.bin}/{name}"' for name in provides)
    machine.command(
        "apt-get", f'{extra}\n[[ " $* " != *" --simulate "* && " $* " == *" install "* ]] || exit 0\n{made}'
    )
    machine.command("apt-cache", 'echo "  Candidate: 1.0"')


def with_python(machine: Machine) -> None:
    """And with what the native engine is built with, as far as it is looked for in the PATH."""
    machine.command("python3")
    machine.command("gcc")


def test_a_machine_that_has_everything_is_left_alone(machine: Machine) -> None:
    with_python(machine)
    for name in PRESENT:
        machine.command(name)
    with_apt(machine)
    result = machine.run("setup-system", "launch")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert machine.calls("apt-get") == []


def test_only_what_is_missing_is_installed_without_questions(machine: Machine) -> None:
    with_python(machine)
    machine.command("ip")
    with_apt(machine)
    result = machine.run("setup-system", "launch")
    assert result.returncode == 0, result.stderr
    installs = [call for call in machine.calls("apt-get") if " install " in call and "--simulate" not in call]
    assert len(installs) == 1
    assert installs[0].endswith("install iptables nftables")
    assert "--yes --no-install-recommends" in installs[0]


def test_the_tests_get_their_tools(machine: Machine) -> None:
    with_python(machine)
    machine.command("ldd", "exit 1")
    with_apt(machine, provides=(*PRESENT, "busybox"))
    assert machine.run("setup-system", "test").returncode == 0
    (install,) = [call for call in machine.calls("apt-get") if " install " in call and "--simulate" not in call]
    tools = ["busybox-static", "docker.io", "ethtool", "iperf3", "iputils-ping", "procps", "tcpdump"]
    assert install.rpartition(" install ")[2].split() == ["iproute2", "iptables", "nftables", *tools]


def test_what_the_native_engine_is_built_with_is_installed(machine: Machine) -> None:
    with_python(machine)
    for name in PRESENT:
        machine.command(name)
    (machine.bin / "gcc").unlink()
    with_apt(machine)
    assert machine.run("setup-system", "launch").returncode == 0
    installs = [call for call in machine.calls("apt-get") if " install " in call and "--simulate" not in call]
    assert [call.rpartition(" install ")[2] for call in installs] == ["gcc"]


def test_nobody_is_kept_from_launching_by_a_missing_compiler(machine: Machine) -> None:
    with_python(machine)
    for name in PRESENT:
        machine.command(name)
    (machine.bin / "gcc").unlink()
    result = machine.run("setup-system", "launch", FAKE_UID="1000")
    assert result.returncode == 0
    assert "the native engine wants gcc: without, the router uses the python engine" in only_line(result)


def test_nor_by_one_that_cannot_be_installed(machine: Machine) -> None:
    with_python(machine)
    for name in PRESENT:
        machine.command(name)
    (machine.bin / "gcc").unlink()
    with_apt(
        machine,
        extra='[[ " $* " != *" install "* || " $* " == *" --simulate "* ]] || { echo "E: no route"; exit 100; }',
    )
    result = machine.run("setup-system", "launch")
    assert result.returncode == 0
    assert "E: no route" in result.stderr
    assert "the native engine wants gcc: without, the router uses the python engine" in result.stderr.splitlines()[-1]


def test_the_package_lists_are_read_when_apt_does_not_know_the_package(machine: Machine) -> None:
    with_python(machine)
    with_apt(machine)
    machine.command(
        "apt-cache",
        f'grep -q "apt-get.*update" "{machine.log}" && echo "  Candidate: 1.0" || echo "  Candidate: (none)"',
    )
    assert machine.run("setup-system").returncode == 0
    verbs = [
        call.rpartition("recommends ")[2].split()[0] for call in machine.calls("apt-get") if "--simulate" not in call
    ]
    assert verbs == ["update", "install"]


def test_an_install_that_fails_is_tried_once_more_with_fresh_lists(machine: Machine) -> None:
    with_python(machine)
    with_apt(
        machine,
        extra=f'[[ " $* " != *" install "* ]] || grep -q update "{machine.log}" || {{ echo "E: 404 Not Found"; exit 100; }}',
    )
    assert machine.run("setup-system").returncode == 0


def test_an_install_that_keeps_failing_says_what_and_where_the_log_is(machine: Machine) -> None:
    with_python(machine)
    with_apt(
        machine,
        extra='[[ " $* " != *" install "* || " $* " == *" --simulate "* ]] || { echo "E: no space"; exit 100; }',
    )
    result = machine.run("setup-system")
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1
    assert "E: no space" in last
    log = Path(last.rpartition(" ")[2])
    assert log.is_relative_to(machine.temporary)
    assert "E: no space" in log.read_text()


def test_nothing_of_the_owner_is_removed_for_the_tests(machine: Machine) -> None:
    with_python(machine)
    with_apt(
        machine, extra='[[ " $* " != *" --simulate "* ]] || { echo "Remv busybox [1]"; echo "Remv docker-ce [5]"; }'
    )
    result = machine.run("setup-system", "test")
    assert result.returncode == 1
    assert "would remove docker-ce:" in result.stderr
    assert not [call for call in machine.calls("apt-get") if " install " in call and "--simulate" not in call]


def test_without_apt_one_line_names_the_missing_commands(machine: Machine) -> None:
    with_python(machine)
    machine.command("ip")
    result = machine.run("setup-system")
    assert result.returncode == 1
    assert "missing here: iptables nft;" in only_line(result)


def test_without_root_and_sudo_one_line_says_so(machine: Machine) -> None:
    with_python(machine)
    with_apt(machine)
    result = machine.run("setup-system", FAKE_UID="1000")
    assert result.returncode == 1
    assert "no sudo" in only_line(result)
    assert machine.calls("apt-get") == []


def test_sudo_is_asked_when_there_is_something_to_install(machine: Machine) -> None:
    with_python(machine)
    with_apt(machine)
    machine.command("sudo", 'shift; FAKE_UID=0 exec "$@"')
    assert machine.run("setup-system", FAKE_UID="1000").returncode == 0
    assert len(machine.calls("sudo")) == 1
    assert machine.run("setup-system", FAKE_UID="1000").returncode == 0
    assert len(machine.calls("sudo")) == 1


def test_an_overlay_that_this_release_does_not_have_is_left_out_of_the_comparison(machine: Machine) -> None:
    with_python(machine)
    overlays = ("fastd", "nebula", "openssl", "openvpn", "tincd", "wg", "wireguard-go")
    tools = ("busybox", "dockerd", "ethtool", "iperf3", "ping", "ps", "tcpdump")
    machine.command("ldd", "exit 1")
    with_apt(machine, provides=(*PRESENT, *tools, *overlays))
    machine.command("apt-cache", '[[ $2 == n2n ]] && echo "  Candidate: (none)" || echo "  Candidate: 1.0"')
    result = machine.run("setup-system", "peers")
    assert result.returncode == 0, result.stderr
    assert "apt knows no package n2n here: make bench goes without it" in result.stderr + result.stdout
    installs = [call for call in machine.calls("apt-get") if " install " in call]
    assert installs
    assert all(" n2n" not in call for call in installs)
    assert all(" openvpn tinc " in f"{call} " for call in installs)


def test_an_unknown_group_is_refused(machine: Machine) -> None:
    result = machine.run("setup-system", "everything")
    assert result.returncode == 1
    assert "unknown group 'everything'" in only_line(result)


# --- setup-venv -----------------------------------------------------------------------------------------------------------


def with_venv_python(machine: Machine) -> None:
    """A python3 whose `-m venv` makes a folder with the same little interpreter, and whose pip makes the meshd command."""
    (machine.tree / "pyproject.toml").write_text("[project]\n")
    made = f'cp "{machine.bin}/true" "$(dirname "$0")/meshd"; : >"{machine.native}/_core.abi3.so";'
    inner = machine.script(machine.bin / "inner-python", f'[[ "$*" != *"-m pip install"* ]] || {{ {made} }}')
    machine.command("true")
    for name in ("cp", "mkdir"):
        (machine.bin / name).symlink_to(shutil.which(name) or name)
    machine.command(
        "python3",
        f"""case "$*" in
--version) echo Python 3.11.9 ;;
"-m venv "*) mkdir -p "$3/bin"; cp "{inner}" "$3/bin/python"; echo "#!$3/bin/python" >"$3/bin/pip" ;;
esac""",
    )


def pip_calls(machine: Machine) -> list[str]:
    return [call.rpartition("--editable ")[2] for call in machine.calls("inner-python") if "pip install" in call]


def test_the_venv_is_made_once_and_installed_into_again_when_pyproject_changes(machine: Machine) -> None:
    with_venv_python(machine)
    for _ in range(2):
        result = machine.run("setup-venv")
        assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert pip_calls(machine) == ["."]
    (machine.tree / "pyproject.toml").write_text("[project]\nname='x'\n")
    assert machine.run("setup-venv").returncode == 0
    assert pip_calls(machine) == [".", "."]
    assert len([call for call in machine.calls("python3") if "-m venv" in call]) == 1


def test_a_compiler_that_came_later_builds_the_native_engine(machine: Machine) -> None:
    with_venv_python(machine)
    assert machine.run("setup-venv").returncode == 0
    (machine.native / "core.c").write_text("int other;\n")
    assert machine.run("setup-venv").returncode == 0
    machine.command("gcc")
    assert machine.run("setup-venv").returncode == 0
    assert machine.run("setup-venv").returncode == 0
    assert pip_calls(machine) == [".", ".", "."]


def test_a_native_engine_that_was_not_built_is_said(machine: Machine) -> None:
    with_venv_python(machine)
    body = (machine.bin / "inner-python").read_text().replace(f': >"{machine.native}/_core.abi3.so";', "")
    machine.script(machine.bin / "inner-python", body)
    result = machine.run("setup-venv")
    assert result.returncode == 0
    assert "the native engine could not be built (C compiler: none)" in result.stderr.splitlines()[-1]


def test_what_the_tests_need_is_added_and_stays(machine: Machine) -> None:
    with_venv_python(machine)
    for extra in ([], ["test"], [], ["test"]):
        assert machine.run("setup-venv", *extra).returncode == 0
    assert pip_calls(machine) == [".", ".[test]"]
    (machine.tree / "pyproject.toml").write_text("[project]\nname='x'\n")
    assert machine.run("setup-venv").returncode == 0
    assert pip_calls(machine)[2:] == [".[test]"]


def test_a_copied_tree_gets_a_venv_of_its_own(machine: Machine) -> None:
    with_venv_python(machine)
    assert machine.run("setup-venv").returncode == 0
    copy = machine.tree.with_name("copy")
    shutil.copytree(machine.tree, copy)
    (copy / ".venv/of-the-old-one").touch()
    machine.tree = copy
    assert machine.run("setup-venv").returncode == 0
    assert not (copy / ".venv/of-the-old-one").exists()
    assert len([call for call in machine.calls("python3") if "-m venv" in call]) == 2


def test_a_venv_whose_python_is_gone_is_made_anew(machine: Machine) -> None:
    with_venv_python(machine)
    assert machine.run("setup-venv").returncode == 0
    interpreter = machine.tree / ".venv/bin/python"
    interpreter.unlink()
    interpreter.symlink_to("/nowhere/python3")
    assert machine.run("setup-venv").returncode == 0
    assert len([call for call in machine.calls("python3") if "-m venv" in call]) == 2


def test_an_install_that_failed_is_not_taken_for_done(machine: Machine) -> None:
    with_venv_python(machine)
    machine.script(
        machine.bin / "inner-python", '[[ "$*" != *"-m pip"* ]] || { echo "ERROR: no such package"; exit 1; }'
    )
    for _ in range(2):
        result = machine.run("setup-venv")
        assert result.returncode == 1
        assert "ERROR: no such package" in result.stderr.splitlines()[-1]


def test_an_old_python_is_refused_by_name(machine: Machine) -> None:
    (machine.tree / "pyproject.toml").write_text("")
    machine.command("python3", '[[ $* != --version ]] || echo "Python 3.9.2"; [[ $1 != -Ic ]]')
    result = machine.run("setup-venv")
    assert result.returncode == 1
    assert "Python 3.11 or newer" in only_line(result)
    assert "Python 3.9.2" in only_line(result)


def test_a_newer_python_beside_an_old_one_is_taken(machine: Machine) -> None:
    with_venv_python(machine)
    body = (machine.bin / "python3").read_text().partition("\n")[2]
    machine.command("python3.12", body)
    machine.command("python3", "exit 1")
    assert machine.run("setup-venv").returncode == 0
    assert [call for call in machine.calls("python3.12") if "-m venv" in call]


# --- launch ---------------------------------------------------------------------------------------------------------------


def with_router(machine: Machine, *, running: bool) -> None:
    shown = " ".join(f"{name}=${{{name}-unset}}" for name in ("MESHD_KEY", "KEY", "MESHD_DIR", "MAKEFLAGS"))
    status = 0 if running else 1
    machine.script(machine.tree / ".venv/bin/meshd", f'[[ $1 != status ]] || exit {status}\necho "environment {shown}"')


def launch(machine: Machine, **environment: str) -> subprocess.CompletedProcess[str]:
    return machine.run("launch", MESHD_LINK=str(machine.tree.with_name("link")), **environment)


def verbs(machine: Machine) -> list[str]:
    return [call for call in machine.calls("meshd") if call != "meshd status"]


def test_the_first_launch_founds_a_mesh_and_makes_the_command(machine: Machine) -> None:
    with_router(machine, running=False)
    assert launch(machine).returncode == 0
    assert verbs(machine) == ["meshd launch"]
    assert machine.tree.with_name("link").readlink() == machine.tree / ".venv/bin/meshd"


@pytest.mark.parametrize("peers", ["host2,host3", "host2 host3"])
def test_peers_are_handed_on(machine: Machine, peers: str) -> None:
    with_router(machine, running=False)
    assert launch(machine, PEERS=peers, KEY_FILE="/etc/key", ARGS="--mtu 1300 --no-discovery").returncode == 0
    assert verbs(machine) == ["meshd launch --peers host2,host3 --key-file /etc/key --mtu 1300 --no-discovery"]


def test_the_key_travels_in_the_environment_only(machine: Machine) -> None:
    with_router(machine, running=False)
    result = launch(machine, KEY=SECRET, MAKEFLAGS=f"-- KEY={SECRET}")
    assert result.returncode == 0
    assert result.stdout == f"environment MESHD_KEY={SECRET} KEY=unset MESHD_DIR=unset MAKEFLAGS=unset\n"
    assert SECRET not in "".join(machine.calls())
    assert SECRET not in result.stderr


def test_sudo_keeps_only_what_meshd_needs(machine: Machine) -> None:
    with_router(machine, running=False)
    machine.command("sudo", 'shift 2; exec "$@"')
    result = launch(machine, KEY=SECRET, MESHD_DIR="/srv/a", FAKE_UID="1000")
    assert result.returncode == 0
    assert SECRET not in "".join(machine.calls())
    asked = machine.calls("sudo")
    assert (
        asked[-1] == f"sudo --preserve-env=MESHD_KEY,MESHD_PASSWORD,MESHD_DIR -- {machine.tree}/.venv/bin/meshd launch"
    )


def test_empty_variables_mean_nothing(machine: Machine) -> None:
    with_router(machine, running=False)
    result = launch(machine, KEY="", MESHD_KEY="", MESHD_DIR="", PEERS=" , ", ARGS="")
    assert result.stdout == "environment MESHD_KEY=unset KEY=unset MESHD_DIR=unset MAKEFLAGS=unset\n"
    assert verbs(machine) == ["meshd launch"]


def test_a_running_router_is_told_about_the_peers(machine: Machine) -> None:
    with_router(machine, running=True)
    assert launch(machine, PEERS="host2,,host3:7000").returncode == 0
    assert verbs(machine) == ["meshd connect host2 host3:7000"]


def test_a_running_router_without_peers_is_left_alone(machine: Machine) -> None:
    with_router(machine, running=True)
    result = launch(machine)
    assert result.returncode == 0
    assert "runs already" in only_line(result)
    assert verbs(machine) == []


def test_a_running_router_says_that_a_new_key_does_not_count(machine: Machine) -> None:
    with_router(machine, running=True)
    result = launch(machine, KEY=SECRET, PEERS="host2")
    assert "count at the next launch" in result.stderr
    assert SECRET not in result.stderr


@pytest.mark.parametrize("other", [{"KEY_FILE": "/etc/key"}, {"MESHD_KEY": "mk1-another"}])
def test_two_keys_are_refused(machine: Machine, other: dict[str, str]) -> None:
    with_router(machine, running=False)
    result = launch(machine, KEY=SECRET, **other)
    assert result.returncode == 1
    assert "both given" in only_line(result)
    assert SECRET not in only_line(result)
    assert verbs(machine) == []


def test_the_status_of_launch_is_that_of_make(machine: Machine) -> None:
    machine.script(machine.tree / ".venv/bin/meshd", "exit 3")
    assert launch(machine).returncode == 3
    assert not machine.tree.with_name("link").is_symlink()


# --- link -----------------------------------------------------------------------------------------------------------------


def link(machine: Machine, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    path = machine.tree.with_name("link")
    return machine.run("link", *arguments, MESHD_LINK=str(path)), path


def test_a_command_of_somebody_else_is_left_alone(machine: Machine) -> None:
    machine.tree.with_name("link").write_text("theirs")
    result, path = link(machine)
    assert result.returncode == 1
    assert "is not this tree's" in only_line(result)
    result, path = link(machine, "--if-free")
    assert result.returncode == 0
    assert f"call this one as {machine.tree}/.venv/bin/meshd" in only_line(result)
    assert path.read_text() == "theirs"


def test_a_link_to_a_tree_that_is_gone_is_replaced(machine: Machine) -> None:
    machine.tree.with_name("link").symlink_to(machine.tree.with_name("gone"))
    machine.script(machine.tree / ".venv/bin/meshd")
    for _ in range(2):
        result, path = link(machine)
        assert result.returncode == 0
        assert only_line(result) == f"meshd: call it as {path}, for instance: {path} status"
        assert path.readlink() == machine.tree / ".venv/bin/meshd"
