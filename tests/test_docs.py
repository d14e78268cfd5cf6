"""The documents and the code say the same: numbers, sizes and names quoted in tables are read from the text and compared.

A table row whose first cell is a dotted name in code quotes, `package.module.NAME`, states the value of that name below `meshd`.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshd.config import Paths
from meshd.control import limits
from meshd.crypto.aead import Suite
from meshd.crypto.cookie import COOKIE_SIZE, CookieKind
from meshd.crypto.wire import MessageType, message_size
from meshd.daemon.supervise import EXIT_REFUSED, EXIT_STOPPED
from meshd.drops import DropReason
from meshd.forward.control import ByeReason, Subtype
from meshd.forward.cost import LOSS_BOUNDS, RTT_BOUNDS
from meshd.forward.entries import EntryKind
from meshd.forward.header import DATA_OVERHEAD
from meshd.forward.path import PathState
from meshd.forward.relay import RELAY_OVERHEAD
from meshd.gossip import messages
from meshd.gossip.records import FLOOR_KEY
from meshd.gossip.values import HOST_KEY, LINKS_KEY, attachment_key, groups_key, learned_key
from meshd.ids import Mac, SegmentId

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text()
OPERATIONS = (DOCS / "operations.md").read_text()
FAULTS = (DOCS / "faults.md").read_text()

Row = list[str]


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert found is not None, f"no heading {heading!r}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> Iterator[Row]:
    """The rows of all tables, without heads and rules; `\\|` in a cell is a bar."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        head = number + 1 < len(lines) and lines[number + 1].startswith("| ---")
        if line.startswith("|") and not line.startswith("| ---") and not head:
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def table(text: str, first: str) -> list[Row]:
    """The rows of the one table whose head begins with this cell."""
    found = re.search(rf"^\| {re.escape(first)} \|.*\n\| ---.*\n((?:\|.*\n?)+)", text, re.MULTILINE)
    assert found is not None, f"no table {first!r}"
    return [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in found[1].splitlines()
    ]


# constants

NAMED = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*\.(?:Timing\.[a-z_]+|_?[A-Z][A-Z0-9_]*))`")
UNITS = {"": 1.0, "B": 1.0, "s": 1.0, "ms": 0.001, "KiB": 1024.0, "MiB": 1024.0**2}


def stated(cell: str) -> tuple[float, ...]:
    """`2^27`, `65 536`, `1 MiB`, `0.25, 0.5 s`."""
    found = re.fullmatch(r"(.*?)(?: (B|s|ms|KiB|MiB))?", cell)
    assert found is not None
    numbers = found[1].replace("\N{NO-BREAK SPACE}", " ").split(",")
    values = []
    for number in numbers:
        base, _, exponent = number.replace(" ", "").partition("^")
        values.append(float(int(base) ** int(exponent)) if exponent else float(base))
    return tuple(value * UNITS[found[2] or ""] for value in values)


def value_of(name: str) -> tuple[float, ...]:
    module, _, attribute = name.rpartition(".")
    if module.endswith(".Timing"):
        value: Any = getattr(importlib.import_module(f"meshd.{module.removesuffix('.Timing')}").Timing(), attribute)
    else:
        value = getattr(importlib.import_module(f"meshd.{module}"), attribute)
    return tuple(map(float, value)) if isinstance(value, tuple) else (float(value),)


QUOTED = {found[1]: row[1] for row in rows(PROTOCOL) if (found := NAMED.fullmatch(row[0]))}


@pytest.mark.parametrize("name", QUOTED)
def test_constants(name: str) -> None:
    assert stated(QUOTED[name]) == pytest.approx(value_of(name)), name


def bounds() -> Iterator[str]:
    """Every module constant that by its name bounds something: in all packages that bytes of others reach."""
    for package in ("crypto", "forward", "gossip", "net", "node"):
        for path in sorted((ROOT / "meshd" / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT / "meshd").with_suffix("").parts)
            for statement in ast.parse(path.read_text()).body:
                if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                    name = statement.targets[0].id
                    if re.match(r"_?MAX_|.*_(RATE|BURST|BACKLOG)$", name) and name != "_MAX_TAGS":
                        yield f"{module}.{name}"


def test_every_bound_is_in_the_tables() -> None:
    derived = {"crypto.wire.MAX_HANDSHAKE_SIZE"}  # of the sizes of types 1, 2, 5 to 7
    assert set(bounds()) - set(QUOTED) - derived == set()


# numbers of the wire


def test_datagram_types_and_sizes() -> None:
    table_rows = table(section(PROTOCOL, "Datagrams"), "type")
    assert {int(row[0]): row[1] for row in table_rows} == {kind.value: kind.name for kind in MessageType}
    for row in table_rows:
        if row[3].isdigit():
            size = COOKIE_SIZE if row[1] == "COOKIE" else message_size(MessageType(int(row[0])))
            assert size == int(row[3])
            parts = re.sub(r"\([^)]*\)", "", row[2])
            assert 4 + sum(map(int, re.findall(r" (\d+)", " " + parts))) == int(row[3]), "the parts add up"
        elif row[3]:
            assert row[3] == f"{RELAY_OVERHEAD if row[1] == 'RELAY' else DATA_OVERHEAD}+n"


@pytest.mark.parametrize(
    ("heading", "first", "numbers"),
    [
        ("Data", "suite", {suite.name: suite.value for suite in Suite}),
        ("Cookies", "cookie kind", {kind.name: kind.value for kind in CookieKind}),
        ("Entries", "kind", {kind.name: kind.value for kind in EntryKind}),
        ("Control entries", "subtype", {subtype.name: subtype.value for subtype in Subtype}),
        ("Control entries", "bye reason", {reason.name: reason.value for reason in ByeReason}),
    ],
)
def test_numbers(heading: str, first: str, numbers: dict[str, int]) -> None:
    told = {}
    for one, other, *_ in table(section(PROTOCOL, heading), first):
        name, number = (other, one) if one.isdigit() else (one, other)
        told[name] = int(number)
    assert told == numbers


def test_control_link_messages() -> None:
    told = {int(row[0]): row[1] for row in table(section(PROTOCOL, "Messages"), "number")}
    code = {number: kind.__name__ for number, kind, *_ in messages._TABLE}
    spoken = {
        "DigestMessage": "DIGEST",
        "RekeyInit": "REKEY_INIT",
        "RekeyAnswer": "REKEY_ANSWER",
        "RekeyDone": "REKEY_DONE",
    }
    assert told == {number: spoken.get(name, name.upper()) for number, name in code.items()}


def test_record_kinds() -> None:
    keys = (HOST_KEY, LINKS_KEY, attachment_key("x"), learned_key(Mac(bytes(6))), groups_key(SegmentId(0)), FLOOR_KEY)
    told = [row[0].strip("`") for row in table(section(PROTOCOL, "Records"), "kind")]
    assert told == [key[:1].decode() for key in keys]


def test_cost_classes() -> None:
    told = table(section(PROTOCOL, "Liveness"), "cost class")
    assert [f"{bound * 1000:g} ms" for bound in RTT_BOUNDS] == [row[1] for row in told[:3]]
    assert [f"{bound * 100:g} %" for bound in LOSS_BOUNDS] == [row[2] for row in told[:3]]


def test_every_label_is_in_the_text() -> None:
    """The byte strings that keep hashes and signatures apart."""
    labels = set()
    for path in (ROOT / "meshd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, bytes) and node.value.startswith(b"meshd "):
                labels.add(node.value.decode())
    assert len(labels) >= 8
    assert {label for label in labels if f'`"{label}"`' not in PROTOCOL and f'"{label}" |' not in PROTOCOL} == set()


def test_every_vector_file_is_listed() -> None:
    told = set(re.findall(r"\(\.\./tests/vectors/([a-z_]+\.json)\)", PROTOCOL))
    assert told == {path.name for path in (ROOT / "tests" / "vectors").glob("*.json")}


def test_every_reason_that_the_protocol_names_exists() -> None:
    """A word in capitals and code quotes is a drop reason there; in the Gate's drawing every word with an underline is."""
    quoted = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)`", PROTOCOL))
    drawn = set(re.findall(r"[A-Z][A-Z0-9]+_[A-Z0-9_]+", section(PROTOCOL, "Gate")))
    assert len(quoted) > 25
    assert len(drawn) > 10
    assert quoted | drawn <= {reason.name for reason in DropReason}


# operations


def test_every_drop_reason_is_explained_once_under_its_number() -> None:
    told = [(row[0].strip("`"), int(row[1])) for row in table(section(OPERATIONS, "Drop reasons"), "reason")]
    assert told == [(reason.name.lower(), reason.value) for reason in DropReason]


def test_states_of_paths() -> None:
    told = {state for row in table(section(OPERATIONS, "Status"), "path state") for state in row[0].split(", ")}
    assert told == {f"`{state.value}`" for state in PathState} | {"`no session`"}


def test_exit_statuses() -> None:
    told = [(int(row[0]), row[1].strip("`")) for row in table(section(OPERATIONS, "Exit statuses"), "status")]
    assert [status for status, of in told if of == "router"] == [EXIT_STOPPED, 75, EXIT_REFUSED]
    assert {limits.EXIT_NOT_RUNNING, limits.EXIT_BUG} <= {status for status, of in told if of == "meshd"}


def test_files_and_folders() -> None:
    paths = Paths.from_environment({})
    for path in (
        *(paths.socket, paths.pid_file, paths.supervisor_pid_file, paths.log, paths.lock),
        *(paths.key_file, paths.identity_file, paths.database),
    ):
        assert f"`{path}`" in OPERATIONS


# faults


def functions_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_faults_names_exists() -> None:
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::([a-z0-9_]+))?`", FAULTS)
    assert len(named) > 20
    missing = [
        (file, name) for file, name in named if not (ROOT / file).exists() or (name and name not in functions_in(file))
    ]
    assert missing == []


@pytest.mark.parametrize("file", ["architecture.md", "faults.md", "operations.md", "protocol.md"])
def test_anchors_within_a_text_lead_somewhere(file: str) -> None:
    text = (DOCS / file).read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", found.lower()).replace(" ", "-")
        for found in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([a-z0-9-]+)\)", text)) - headings == set()
