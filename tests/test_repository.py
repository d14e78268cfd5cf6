"""What holds for the tree as a whole: what lies in it, how long files get, that texts and code say the same.

Where git is (and this is a clone) the tracked files are judged, elsewhere all files but the usual caches: a source archive on a
machine without git is tested, too.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import meshd

ROOT = Path(__file__).parent.parent

TOP_LEVEL = {
    *(".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"),
    *("bench", "docs", "meshd", "packaging", "tests"),
}
CACHES = re.compile(
    r"(^|/)(\.git|\.venv|build|dist|[^/]+\.egg-info|__pycache__|\.[a-z]+_cache|\.hypothesis|results)(/|$)"
)

LINES_AT_MOST = 600

# A path of the machine that somebody wrote a file on means nothing anywhere else.
FOREIGN_PATH = re.compile(r"(?<![\w.])/(work|home|root|Users)/")


@cache
def files() -> tuple[str, ...]:
    """The files of the project, relative to its root."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        # The tree may belong to another user than the one who runs the tests.
        command = [git, "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        return tuple(name for name in listed if name and (ROOT / name).is_file())
    every = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return tuple(sorted(name for name in every if not CACHES.search(name)))


def sources(*folders: str) -> list[str]:
    return [name for name in files() if name.endswith(".py") and name.partition("/")[0] in folders]


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def test_the_top_level_holds_what_it_should_and_no_more() -> None:
    assert {name.partition("/")[0] for name in files()} - TOP_LEVEL == set()


def test_everything_that_the_top_level_should_hold_is_there() -> None:
    assert {name for name in TOP_LEVEL if not (ROOT / name).exists()} == set()


def test_files_stay_short() -> None:
    lengths = {name: len(read(name).splitlines()) for name in sources("meshd")}
    assert {name: length for name, length in lengths.items() if length > LINES_AT_MOST} == {}, (
        "one idea to a file: split it"
    )


def test_every_module_says_what_it_is() -> None:
    modules = [name for name in sources("meshd", "bench") if read(name).strip()]
    assert [name for name in modules if not ast.get_docstring(ast.parse(read(name)))] == []


def test_the_product_is_typed_and_says_so() -> None:
    assert (ROOT / "meshd/py.typed").exists()


def public_definitions(tree: ast.Module) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


@pytest.mark.parametrize("file", sources("meshd"))
def test_all_names_what_exists(file: str) -> None:
    tree = ast.parse(read(file))
    declares = any(
        isinstance(node, ast.Assign)
        and any(isinstance(name, ast.Name) and name.id == "__all__" for name in node.targets)
        for node in tree.body
    )
    if not declares:
        return
    module = importlib.import_module(module_name(file))
    exported: list[str] = module.__all__
    assert len(exported) == len(set(exported))
    assert [name for name in exported if not hasattr(module, name)] == []
    assert public_definitions(tree) - set(exported) == set(), "list it in __all__ or give it a leading underscore"


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("file", [name for name in files() if name.endswith(".md")])
def test_every_make_command_in_the_texts_exists(file: str) -> None:
    # Of a code span or an indented line; `make` in running prose is a verb.
    commands = re.findall(r"(?:`|^    (?:sudo )?)make ([a-z][a-z-]*)", read(file), re.MULTILINE)
    assert set(commands) - makefile_targets() == set()


@pytest.fixture(scope="module")
def verbs() -> set[str]:
    """What `meshd --help` lists."""
    command = [sys.executable, "-c", "from meshd.cli.main import main; main()", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return set(re.findall(r"^  ([a-z-]+)  ", text, re.MULTILINE))


@pytest.mark.parametrize("file", [name for name in files() if name.endswith(".md")])
def test_every_verb_in_the_texts_exists(file: str, verbs: set[str]) -> None:
    named = re.findall(r"(?:`|^    (?:sudo )?)meshd ([a-z][a-z-]*)(?![\w.])", read(file), re.MULTILINE)
    assert {"launch", "attach", "status"} <= verbs
    assert set(named) - verbs == set()


@pytest.mark.parametrize("file", [name for name in files() if name.endswith(".md")])
def test_every_link_between_the_texts_leads_somewhere(file: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(file))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (ROOT / file).parent.joinpath(link).exists()] == []


def test_the_readme_starts_with_make_on_debian() -> None:
    readme = read("README.md")
    assert "make launch PEERS=host2,host3" in readme
    assert "make test" in readme
    quick_start = readme.partition("## Quick start")[2].strip().splitlines()[0]
    assert "Debian 12" in quick_start
    assert "`make`" in quick_start


def test_every_target_is_explained_and_phony() -> None:
    makefile = read("Makefile")
    explained = set(re.findall(r"^## .+\n([a-z][a-z-]*):", makefile, re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split())
    assert explained == makefile_targets() == phony


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = []
    for name in files():
        try:
            lines = read(name).splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{number}" for number, line in enumerate(lines, 1) if FOREIGN_PATH.search(line)]
    assert found == []


def test_the_changelog_knows_this_version() -> None:
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", read("CHANGELOG.md"), re.MULTILINE)
    assert released[0] == meshd.__version__


def scripts() -> list[str]:
    return [name for name in files() if name.startswith(("packaging/", ".ci/")) and read(name).startswith("#!")]


@pytest.mark.parametrize("file", scripts())
def test_scripts_can_be_run_and_stop_at_the_first_error(file: str) -> None:
    assert os.access(ROOT / file, os.X_OK)
    text = read(file)
    if text.startswith("#!/bin/bash"):
        assert "set -euo pipefail" in text or "lib.sh" in text
        subprocess.run(["bash", "-n", str(ROOT / file)], check=True)


def test_the_licence_is_the_whole_apache_2() -> None:
    text = read("LICENSE")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
