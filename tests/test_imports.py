"""Who may import whom: the picture of docs/architecture.md as a table, with the reason in the failure.

Every module of meshd is parsed, never imported, so an import inside a function or under TYPE_CHECKING counts as well: a
dependency is one whenever it runs. The rules are functions from modules to texts, and are tried on invented modules below: a test
that cannot fail would hold nothing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ROOT / "meshd"

BASE = frozenset({"budget", "config", "drops", "errors", "ids", "views"})
PURE = frozenset({"crypto", "dns", "forward", "gossip", "ipam", "node"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a package may import of meshd besides itself, and why no more."""

    allowed: frozenset[str]
    reason: str


def rule(allowed: str, reason: str) -> Rule:
    return Rule(allowed=frozenset(allowed.split()), reason=reason)


# An entry `control.client` allows that module only, `control` the whole package. "base" is every one of BASE.
RULES: Mapping[str, Rule] = {
    "base": rule("", "everybody imports names, errors and configuration, so they import nobody and load in no time"),
    "crypto": rule("base", "keys and bytes only: whom a key belongs to is decided above"),
    "gossip": rule("base crypto", "records are merged without knowing who forwards by them"),
    "forward": rule("base crypto", "the data plane looks up what the node wrote into its tables; it asks nobody"),
    "ipam": rule("base gossip", "addresses are records; nothing else of the mesh matters to them"),
    "dns": rule("base gossip", "names are records; nothing else of the mesh matters to them"),
    "node": rule(
        "base crypto gossip forward ipam dns", "one whole mesh node without I/O, so that a thousand run in one process"
    ),
    "capture": rule("ids errors drops", "moves frames of interfaces; knows bytes and addresses, never peers"),
    "net": rule("ids errors drops", "moves datagrams and streams; knows bytes and addresses, never peers"),
    "control": rule(
        "base", "shapes of requests and answers for both ends; the daemon fills them, nobody reaches into it"
    ),
    "daemon": rule(
        "base crypto gossip forward ipam dns node capture net plugin control",
        "the composition root: everything meets here, except the command line that starts it",
    ),
    "cli": rule(
        "errors ids config control.client control.render control.render_inquiry",
        "a verb that asks must answer in 200 ms: it talks to the router over its socket and loads none of it",
    ),
    "testing": rule(
        "base crypto gossip forward ipam dns node capture net plugin control daemon cli",
        "may use everything; the product never imports it",
    ),
}

# The verbs that work without a running router, or start one.
OFFLINE_VERBS = frozenset({"cli.key", "cli.launch", "cli.reset", "cli.stop"})

BANNED_IN_PURE = frozenset(
    {
        *("asyncio", "concurrent", "multiprocessing", "subprocess", "threading"),
        *("fcntl", "os", "select", "selectors", "signal", "socket", "ssl"),
        *("random", "secrets", "time"),
    }
)
PURE_REASON = (
    "time, randomness and bytes come in by argument, so that a whole mesh runs on a virtual clock and every run repeats"
)
# It gets open descriptors and may read and write them (docs/architecture.md, "Decide once, forward fast").
IMPURE_EXCEPTION = "forward.engine"

# Library → the only packages that may import it, and why.
CONFINED: Mapping[str, tuple[frozenset[str], str]] = {
    "scapy": (
        frozenset({"cli"}),
        "0.8 s to import and GPL-2.0-only: an optional extra of one verb, never in the router",
    ),
    "rich": (frozenset({"cli"}), "an idle router has nothing to paint"),
    "tests": (frozenset(), "the product never imports its tests"),
    "bench": (frozenset(), "the product never imports its benchmarks"),
}

CLIENT = "control.client"
CLIENT_BANNED = frozenset({"aiohttp", "asyncio", "cryptography", "pyroute2", "rich", "uvloop"})
CLIENT_REASON = "the 60 to 190 ms of importing them would be most of the time that a verb takes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """`target` imported at `line`, dotted and absolute; `name` is set for `from target import name`."""

    target: str
    name: str
    line: int


def imports_of(module: str, tree: ast.AST, *, is_package: bool) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(target=alias.name, name="", line=node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # `from . import x` in a module starts at its package, in an __init__ at the package itself.
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                yield Import(target=base, name=alias.name, line=node.lineno)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file of meshd; `name` is dotted and without the leading `meshd.` ("" is meshd/__init__.py)."""

    name: str
    tree: ast.Module
    is_package: bool

    @property
    def package(self) -> str:
        top = self.name.partition(".")[0]
        if top in BASE or not top:
            return "base"
        return "node" if top.startswith("node_") else top

    def imports(self) -> Iterator[Import]:
        return imports_of(f"meshd.{self.name}".rstrip("."), self.tree, is_package=self.is_package)


def parse(name: str, source: str, *, is_package: bool = False) -> Module:
    return Module(name=name, tree=ast.parse(source), is_package=is_package)


def product() -> list[Module]:
    found = []
    for path in sorted(PRODUCT.rglob("*.py")):
        parts = path.relative_to(PRODUCT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found.append(parse(name, path.read_text(), is_package=is_package))
    return found


def inside(name: str, entry: str) -> bool:
    return name == entry or name.startswith(f"{entry}.")


def targets(imported: Import, names: frozenset[str]) -> str:
    """The module of meshd that an import means, without `meshd.`: for `from meshd.x import y`, x.y where that is a module."""
    target = imported.target.removeprefix("meshd").removeprefix(".")
    longer = f"{target}.{imported.name}".strip(".") if imported.name else target
    return longer if longer in names else target


def is_ours(imported: Import) -> bool:
    return inside(imported.target, "meshd")


def direction_violations(modules: Iterable[Module]) -> Iterator[str]:
    modules = list(modules)
    names = frozenset(module.name for module in modules)
    for module in modules:
        what = RULES.get(module.package)
        if what is None:
            yield f"meshd/{module.package}: a package that the table of tests/test_imports.py does not know; say whom it may import"
            continue
        allowed = set(what.allowed) | (BASE if "base" in what.allowed else set())
        if module.name in OFFLINE_VERBS:
            allowed.add("daemon")
        for imported in filter(is_ours, module.imports()):
            target = targets(imported, names)
            same = parse(target, "").package == module.package
            # meshd/__init__.py holds the version and nothing else.
            if target and not same and not any(inside(target, entry) for entry in allowed):
                yield f"meshd.{module.name}:{imported.line} imports meshd.{target}: {module.package}: {what.reason}"


def only_the_random_class(module: Module) -> bool:
    """True where `random` serves only as the type of an argument: `random.Random` or `from random import Random`."""
    uses = [
        node.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    ]
    return all(use == "Random" for use in uses)


def purity_violations(modules: Iterable[Module]) -> Iterator[str]:
    for module in modules:
        if module.package not in PURE or inside(module.name, IMPURE_EXCEPTION):
            continue
        for imported in module.imports():
            top = imported.target.partition(".")[0]
            if top not in BANNED_IN_PURE:
                continue
            if top == "random" and (imported.name == "Random" if imported.name else only_the_random_class(module)):
                continue
            yield f"meshd.{module.name}:{imported.line} imports {top}: {PURE_REASON}"


def base_violations(modules: Iterable[Module]) -> Iterator[str]:
    for module in modules:
        if module.package != "base":
            continue
        for imported in module.imports():
            if not is_ours(imported) and imported.target.partition(".")[0] not in sys.stdlib_module_names:
                yield f"meshd.{module.name}:{imported.line} imports {imported.target}: {RULES['base'].reason}"


def confinement_violations(modules: Iterable[Module]) -> Iterator[str]:
    for module in modules:
        for imported in module.imports():
            top = imported.target.partition(".")[0]
            where, reason = CONFINED.get(top, (frozenset({module.package}), ""))
            if module.package != "testing" and module.package not in where:
                yield f"meshd.{module.name}:{imported.line} imports {top}: {reason}"
            names_testing = inside(imported.target, "meshd.testing") or (imported.target, imported.name) == (
                "meshd",
                "testing",
            )
            if names_testing and module.package != "testing":
                yield f"meshd.{module.name}:{imported.line} imports meshd.testing: {RULES['testing'].reason}"


def client_violations(modules: Iterable[Module]) -> Iterator[str]:
    """Follows the imports of control.client through meshd; importing a.b also runs a."""
    known = {module.name: module for module in modules}
    names = frozenset(known)
    if CLIENT not in known:
        yield f"meshd.{CLIENT} does not exist: the command line has nothing to talk to the router with"
        return
    waiting, seen = [(CLIENT, CLIENT)], set[str]()
    while waiting:
        name, way = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if parent := name.rpartition(".")[0]:
            waiting.append((parent, f"{way} → {parent}"))
        for imported in known[name].imports() if name in known else ():
            top = imported.target.partition(".")[0]
            if top in CLIENT_BANNED:
                yield f"meshd.{way} imports {top}: {CLIENT_REASON}"
            if is_ours(imported):
                target = targets(imported, names)
                waiting.append((target, f"{way} → {target}"))


ALL_RULES = (
    direction_violations,
    purity_violations,
    base_violations,
    confinement_violations,
    client_violations,
)


@pytest.mark.parametrize("find", ALL_RULES, ids=lambda find: find.__name__)
def test_the_product_keeps_to_the_picture(find: object) -> None:
    assert callable(find)
    assert list(dict.fromkeys(find(product()))) == []


# --- the rules on invented modules ----------------------------------------------------------------------------------------

GOOD = (
    (
        "forward.header",
        "from meshd.crypto.session import Session\nfrom meshd import ids\nfrom ..errors import DecodeError",
    ),
    ("forward.path", "from random import Random"),
    ("forward.tree", "import random\ndef pick(rng: random.Random) -> None: ..."),
    ("forward.engine.python", "import os, socket\nfrom meshd.forward.header import X"),
    ("node_links", "from meshd.node import Node\nfrom meshd.gossip.log import Log"),
    ("cli.launch", "from meshd.daemon.run import run\nimport rich"),
    ("cli.status", "from meshd.control import client\nfrom meshd import __version__"),
    ("control.client", "import socket, json\nfrom meshd.errors import UserError"),
    ("control.server", "import asyncio, aiohttp"),
    ("testing.simulation", "import scapy, time\nfrom meshd.daemon import x"),
)

BAD = (
    ("crypto.noise", "from meshd.gossip import log", "whom a key belongs to is decided above"),
    ("gossip.log", "import meshd.forward.slots", "without knowing who forwards"),
    ("forward.decide", "from ..gossip.log import Log", "it asks nobody"),
    ("forward.decide", "def f() -> None:\n    from meshd.node import Node", "it asks nobody"),
    ("node", "from . import capture", "without I/O"),
    ("net.udp", "from meshd.crypto.session import Session", "never peers"),
    ("capture.tap", "from meshd import config", "never peers"),
    ("control.server", "from meshd.daemon import run", "nobody reaches into it"),
    ("daemon.run", "from meshd.cli import main", "except the command line"),
    ("cli.status", "from meshd.daemon import run", "answer in 200 ms"),
    ("cli.status", "from meshd.control import server", "answer in 200 ms"),
    ("surprise.thing", "import json", "does not know"),
    ("gossip.log", "import time", "by argument"),
    ("crypto.keys", "from os import urandom", "by argument"),
    ("forward.path", "from random import random", "by argument"),
    ("node", "import random\nx = random.randrange(3)", "by argument"),
    ("node_links", "import asyncio.events", "by argument"),
    ("errors", "import msgpack", "load in no time"),
    ("ids", "from meshd.crypto import keys", "load in no time"),
    ("daemon.run", "import scapy.all", "GPL-2.0-only"),
    ("daemon.run", "from rich.table import Table", "nothing to paint"),
    ("daemon.run", "from meshd.testing.clock import Clock", "never imports it"),
    ("daemon.run", "from meshd import testing", "never imports it"),
    ("gossip.log", "from tests.gossip import helper", "never imports its tests"),
    ("control.client", "import asyncio", "60 to 190 ms"),
    ("control.client", "from meshd.control.render import table", "60 to 190 ms"),
)

# What the invented modules import, so that `from meshd.control import server` is known to mean a module.
AROUND = {
    "": "",
    "config": "",
    "control": "",
    "control.client": "",
    "control.server": "",
    "control.render": "import rich",
    "crypto": "",
    "crypto.keys": "",
    "gossip": "",
    "gossip.log": "",
    "capture": "",
    "testing": "",
    "daemon": "",
    "daemon.run": "",
    "cli": "",
    "cli.main": "",
}


def violations(name: str, source: str) -> list[str]:
    modules = {other: parse(other, text, is_package="." not in other) for other, text in AROUND.items()}
    del modules["control.render"]
    if "render" in source:
        modules["control.render"] = parse("control.render", AROUND["control.render"])
    modules[name] = parse(name, source)
    return [text for find in ALL_RULES for text in find(modules.values())]


@pytest.mark.parametrize(("name", "source"), GOOD)
def test_what_the_picture_allows_passes(name: str, source: str) -> None:
    assert violations(name, source) == []


@pytest.mark.parametrize(("name", "source", "reason"), BAD)
def test_what_the_picture_forbids_is_found_and_explained(name: str, source: str, reason: str) -> None:
    assert any(reason in text for text in violations(name, source))


# --- what a verb really loads ---------------------------------------------------------------------------------------------

HEAVY = ("aiohttp", "asyncio", "cryptography", "pyroute2", "rich", "scapy", "uvloop")

RUN_A_VERB = """
import sys
from meshd.cli.main import main
sys.argv = ["meshd", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    sys.stderr.write(f"exit status {end.code}\\n")
sys.stderr.write("loaded: " + " ".join(sys.modules) + "\\n")
"""


@pytest.mark.parametrize("verb", [["version"], ["status"], ["status", "connections"], ["report"], ["ps"]], ids=" ".join)
def test_a_verb_that_only_asks_loads_nothing_heavy(verb: list[str], tmp_path: Path) -> None:
    """No router runs in `tmp_path`, so all but version end with an error; what they have loaded by then is the same."""
    result = subprocess.run(
        [sys.executable, "-c", RUN_A_VERB, *verb],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"MESHD_DIR": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    loaded = result.stderr.rpartition("loaded: ")[2].split()
    assert "meshd.cli.main" in loaded, result.stderr
    assert not [name for name in HEAVY if name in loaded]
