"""The one firewall rule that the bridge needs: frames within it are accepted.

With br_netfilter's bridge-nf-call-iptables frames inside our own bridge pass the host's FORWARD chain, which Docker ends with
DROP. An accept in a table of our own would not help, since any other table's DROP still wins. So the rule goes where Docker keeps
a place for it (DOCKER-USER), else to the top of FORWARD, through the iptables variant (nft or legacy) whose tables the host
really uses. Others flush those tables, so the owner calls `ensure_rules` again from time to time; it changes nothing where
nothing is missing. INPUT and nat are left alone. Everything here blocks (some 5 ms a command): the loop uses `asyncio.to_thread`.
"""

from __future__ import annotations

import errno
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from meshd.capture.links import check_ifname
from meshd.capture.sysctl import read_sysctl

__all__ = [
    "Family",
    "ensure_rules",
    "firewall_warning",
    "forward_rejects",
    "remove_rules",
]

_TIMEOUT = 10
_LOCK_WAIT = "5"  # seconds for xtables' lock, which Docker holds while it starts containers
_DOCKER_CHAIN, _CHAIN = "DOCKER-USER", "FORWARD"
_MAX_COPIES = 16  # of our rule, removed at most


@dataclass(slots=True, frozen=True, kw_only=True)
class Family:
    command: str  # iptables or ip6tables
    sysctl: str
    tables: str  # tables of the legacy variant that exist in this namespace


_FAMILIES = (
    Family(command="iptables", sysctl="bridge-nf-call-iptables", tables="ip_tables_names"),
    Family(command="ip6tables", sysctl="bridge-nf-call-ip6tables", tables="ip6_tables_names"),
)


def ensure_rules(bridge: str) -> bool:
    """Add what is missing; True if anything was. Does nothing where frames of a bridge do not meet iptables. Raises OSError."""
    families = [family for family in _FAMILIES if _needed(family) and shutil.which(family.command)]
    changed = [_ensure(family, bridge) for family in families]  # every family, also after one that changed
    return any(changed)


def remove_rules(bridge: str) -> bool:
    """Remove the rule wherever it is, in either variant; True if it was anywhere. Raises OSError."""
    check_ifname(bridge)
    removed = False
    for family in _FAMILIES:
        for command in _variants(family):
            for chain in (_DOCKER_CHAIN, _CHAIN):
                for _ in range(_MAX_COPIES):
                    if _run(command, "-D", chain, *_rule(bridge), may_fail=True) is None:
                        break
                    removed = True
    return removed


def firewall_warning() -> str | None:
    """One line for the user if frames meet iptables and we have no iptables to accept them with."""
    missing = [family for family in _FAMILIES if _needed(family) and not shutil.which(family.command)]
    if not missing:
        return None
    commands = " and ".join(family.command for family in missing)
    return (
        f"{commands} not found, while br_netfilter takes bridged frames through the host's firewall: containers may not"
        f" reach one another; install iptables, or set net.bridge.{missing[0].sysctl}=0"
    )


def forward_rejects() -> bool:
    """True if FORWARD holds a REJECT for everything, as some distributions ship it: rules of ours must come before it."""
    family = _FAMILIES[0]
    if not shutil.which(family.command):
        return False
    rules = _Chains(_variant(family)).rules(_CHAIN)
    return any(rule[:4] == ["-A", _CHAIN, "-j", "REJECT"] for rule in rules)


class _Chains:
    """The rules of single chains, each asked for once: the whole table of a Kubernetes host is megabytes."""

    def __init__(self, command: str) -> None:
        self.command = command
        self._rules: dict[str, list[list[str]]] = {}

    def rules(self, chain: str) -> list[list[str]]:
        if chain not in self._rules:
            text = _run(self.command, "-S", chain, may_fail=True) or ""
            self._rules[chain] = [shlex.split(line) for line in text.splitlines() if line.startswith("-A ")]
        return self._rules[chain]

    def place(self) -> str:
        """DOCKER-USER only while FORWARD leads there: a flush of FORWARD alone leaves the chain behind, unused."""
        led = any(rule[-2:] == ["-j", _DOCKER_CHAIN] for rule in self.rules(_CHAIN))
        return _DOCKER_CHAIN if led else _CHAIN


def _needed(family: Family) -> bool:
    return read_sysctl("bridge", family.sysctl) == 1


def _ensure(family: Family, bridge: str) -> bool:
    check_ifname(bridge)
    chains = _Chains(_variant(family))
    if _in_force(chains, bridge):
        return False
    place = chains.place()
    for _ in range(_MAX_COPIES):  # one that came to stand behind a DROP is moved to the top
        if _run(chains.command, "-D", place, *_rule(bridge), may_fail=True) is None:
            break
    _run(chains.command, "-I", place, "1", *_rule(bridge))
    return True


def _in_force(chains: _Chains, bridge: str) -> bool:
    """True if the rule is there and no DROP or REJECT of the same chain comes first."""
    for rule in chains.rules(chains.place()):
        if _is_ours(rule, bridge):
            return True
        if "DROP" in rule or "REJECT" in rule:
            return False
    return False


def _rule(bridge: str) -> list[str]:
    return ["-i", bridge, "-o", bridge, "-m", "comment", "--comment", f"meshd {bridge}", "-j", "ACCEPT"]


def _is_ours(rule: list[str], bridge: str) -> bool:
    return f"meshd {bridge}" in rule and rule[-1] == "ACCEPT"


def _variant(family: Family) -> str:
    """The command that edits the tables in use: the one with Docker's chains, else the one with any rule, else the default."""
    candidates = _variants(family)
    listings = {command: _run(command, "-S", may_fail=True) or "" for command in candidates}
    for command, listing in listings.items():
        if f"-N {_DOCKER_CHAIN}\n" in listing or "-N DOCKER\n" in listing:
            return command
    for command, listing in listings.items():
        if any(line.startswith(("-A ", "-N ")) or line.endswith(" DROP") for line in listing.splitlines()):
            return command
    return family.command


def _variants(family: Family) -> list[str]:
    """The variants worth asking. Asking the legacy one creates its tables, so it is asked only where they exist."""
    if not shutil.which(family.command):
        return []
    commands = [f"{family.command}-nft"] if shutil.which(f"{family.command}-nft") else [family.command]
    if shutil.which(f"{family.command}-legacy") and "filter" in _legacy_tables(family):
        commands.append(f"{family.command}-legacy")
    return commands


def _legacy_tables(family: Family) -> list[str]:
    try:
        return Path("/proc/thread-self/net", family.tables).read_text().split()
    except OSError:  # not loaded
        return []


def _run(command: str, *arguments: str, may_fail: bool = False) -> str | None:
    """The output, or None where the command may fail and did. Raises OSError."""
    try:
        done = subprocess.run(
            [command, "-w", _LOCK_WAIT, *arguments], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"{command} does not end") from None
    if done.returncode == 0:
        return done.stdout
    if may_fail and done.returncode == 1:  # "no such rule" or "no such chain"; 2 and more: lock, rights, usage
        return None
    first_line = (done.stderr.strip().splitlines() or ["no message"])[0]
    raise OSError(errno.EIO, f"{command} {' '.join(arguments)}: {first_line}")
