"""What holds for every test: the order, no silent skips, no leftovers, repeatable hypothesis.

The folder says what a test needs: `tests/netns/` and `tests/docker/` need root and the kernel's help and get the marker of that
name. They run last, since a broken unit explains a broken network and not the other way round. Where something is missing they
fail and say what; with `CI` in the environment any skip is a failure, so that a green run means that everything ran.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.leaks import Leftovers, Snapshot, missing_for_namespaces

TESTS = Path(__file__).parent
ORDER = ("sim", "netns", "docker")  # after everything else
SYSTEM_FOLDERS = ("netns", "docker")
NAMESPACE_COMMANDS = ("ip", "iptables", "nft", "ping")
DOCKER_COMMANDS = (*NAMESPACE_COMMANDS, "busybox", "docker", "dockerd")

# Inherited by all that a test starts, however far it detaches itself: so a leftover process can be told from a stranger's.
RUN_VARIABLE = "MESHD_TEST_RUN"
os.environ[RUN_VARIABLE] = uuid.uuid4().hex

# Whatever the user has set must not steer the routers under test.
for name in ("MESHD_DIR", "MESHD_KEY", "MESHD_PASSWORD", "MESHD_PROFILE"):
    os.environ.pop(name, None)

# A shell that starts the tests in the background lets them, and all that they start, ignore an interrupt: then none ends a verb.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no deadline: a busy machine must not turn a test red.
settings.register_profile("meshd", deadline=None, derandomize=True, database=None)
settings.load_profile("meshd")


def folder_of(path: Path) -> str:
    """The first folder below tests/, or "" for tests beside this file and for those that are elsewhere."""
    if not path.is_relative_to(TESTS):
        return ""
    parts = path.relative_to(TESTS).parts
    return parts[0] if len(parts) > 1 else ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (folder := folder_of(item.path)) in SYSTEM_FOLDERS:
            item.add_marker(folder)
    items.sort(key=lambda item: ORDER.index(folder) if (folder := folder_of(item.path)) in ORDER else -1)


def skips_fail() -> bool:
    return bool(os.environ.get("CI"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure (xfail) is reported as skipped, too; it has run.
    if report.skipped and not hasattr(report, "wasxfail") and skips_fail():
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI is set: {skip_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and skips_fail():
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, and CI is set: {skip_reason(report.longrepr)}"
    return report


def skip_reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


def needs_system(node: pytest.Item | pytest.Collector) -> bool:
    return any(node.get_closest_marker(folder) for folder in SYSTEM_FOLDERS) or folder_of(node.path) in SYSTEM_FOLDERS


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not needs_system(item):
        return
    needs_docker = item.get_closest_marker("docker") is not None
    if missing := missing_for_namespaces(DOCKER_COMMANDS if needs_docker else NAMESPACE_COMMANDS):
        pytest.fail(f"this test cannot run here: {missing}", pytrace=False)


def watch(request: pytest.FixtureRequest) -> Iterator[None]:
    if not needs_system(request.node):
        yield
        return
    before = Snapshot.take(RUN_VARIABLE)
    yield
    leftovers: Leftovers = before.leftovers(only_ours=not skips_fail())
    if leftovers:
        pytest.fail(f"left behind by {request.node.nodeid}: {leftovers}", pytrace=False)


@pytest.fixture(autouse=True)
def nothing_left_by_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test in a network namespace leaves nothing behind: set up before its other fixtures, checked after them."""
    yield from watch(request)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_by_the_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same for what the fixtures of a whole file share."""
    yield from watch(request)
