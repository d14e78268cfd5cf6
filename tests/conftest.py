"""What holds for every test: the order, no silent skips, no leftovers, repeatable hypothesis.

The folder says what a test needs: `tests/netns/` and `tests/docker/` need root and the kernel's help and get the marker of that
name. They run last, since a broken unit explains a broken network and not the other way round. Where something is missing they
fail and say what; with `CI` in the environment any skip is a failure, so that a green run means that everything ran.

With `-n 2`, as `make test` has it, this file is at work in three processes: the one that was started, which runs no test, and two
workers, which share the files: one begins with those that need the system, which mostly wait, the other with the rest.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.leaks import Leftovers, Snapshot, missing_for_namespaces

TESTS = Path(__file__).parent
ORDER = ("sim", "netns", "docker")  # after everything else
SYSTEM_FOLDERS = ("netns", "docker")
NAMESPACE_COMMANDS = ("ip", "iptables", "nft", "ping")
DOCKER_COMMANDS = (*NAMESPACE_COMMANDS, "busybox", "docker", "dockerd")

# Inherited by all that a test starts, however far it detaches itself: so a leftover process can be told from a stranger's. What a
# worker has here begins with what the process that started it has, and so it is with pytest in a test.
RUN_VARIABLE = "MESHD_TEST_RUN"
OUTER_RUN = os.environ.get(RUN_VARIABLE, "")
os.environ[RUN_VARIABLE] = OUTER_RUN + uuid.uuid4().hex

# Nor is pytest in a test a worker of this run.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    os.environ.pop(name)

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


def place_in_order(item: pytest.Item) -> int:
    return ORDER.index(folder) if (folder := folder_of(item.path)) in ORDER else -1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (folder := folder_of(item.path)) in SYSTEM_FOLDERS:
            item.add_marker(folder)
        elif any(item.get_closest_marker(folder) for folder in SYSTEM_FOLDERS):
            raise pytest.UsageError(f"{item.nodeid} needs the system: its place is tests/netns or tests/docker")
    items.sort(key=place_in_order)


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
    return folder_of(node.path) in SYSTEM_FOLDERS


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not needs_system(item):
        return
    needs_docker = item.get_closest_marker("docker") is not None
    if missing := missing_for_namespaces(DOCKER_COMMANDS if needs_docker else NAMESPACE_COMMANDS):
        pytest.fail(f"this test cannot run here: {missing}", pytrace=False)


def alone() -> bool:
    """Whether all that is new on this machine is ours: in CI, but for workers and for pytest in a test, beside which others run."""
    return skips_fail() and not OUTER_RUN


def watch(request: pytest.FixtureRequest) -> Iterator[None]:
    if not needs_system(request.node):
        yield
        return
    before = Snapshot.take(RUN_VARIABLE)
    yield
    leftovers: Leftovers = before.leftovers(of=None if alone() else {os.getpid()})
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


# --- the run as a whole -----------------------------------------------------------------------------------------------------

CLEAN_UP = 45.0  # seconds that a worker has for it: two Docker daemons end
workers: dict[int, WorkerController] = {}  # by pid
before_the_run = pytest.StashKey[Snapshot]()
left_by_the_run = pytest.StashKey[Leftovers]()


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


class SharedByFile(LoadScopeScheduling):
    """Whatever way of sharing was asked for: what a file's fixtures share is made once, and both workers have enough to do.

    The first worker takes files that need the system, in order; the others take the rest, then the last ones of the first's. So
    what waits runs beside what computes for as long as there is both. The names of all that tests make have their worker's pid.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        first = node is self.nodes[0]
        preferred = [file for file in self.workqueue if self._needs_system(file) == first]
        self.workqueue.move_to_end(preferred[0] if preferred else next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)

    def _needs_system(self, file: str) -> bool:
        return folder_of(self.config.rootpath / file) in SYSTEM_FOLDERS


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedByFile:
    config.option.loadscopereorder = False  # in our order, not the file with most tests first
    return SharedByFile(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    workers[node.gateway._rinfo().pid] = node


def pytest_configure(config: pytest.Config) -> None:
    if is_worker(config):
        signal.signal(signal.SIGINT, interrupt_once)


def interrupt_once(_number: int, _frame: object) -> None:
    """The terminal interrupts a worker, and so does the process that started it: the second must not end the clean-up."""
    signal.signal(signal.SIGINT, lambda *_: None)
    raise KeyboardInterrupt


def has_ended(pid: int, node: WorkerController) -> bool:
    if hasattr(node, "workeroutput"):  # what its last event brings
        return True
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def interrupt_workers() -> None:
    """Where the run ends before its tests do. pytest-xdist would kill them after ten seconds, clean-up or not."""
    busy = {pid: node for pid, node in workers.items() if not has_ended(pid, node)}
    for pid in busy:
        os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + CLEAN_UP
    while time.monotonic() < deadline and not all(has_ended(pid, node) for pid, node in busy.items()):
        time.sleep(0.02)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    if not is_worker(session.config):
        session.config.stash[before_the_run] = Snapshot.take(RUN_VARIABLE)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """After a test of a worker, what has its pid in its name was looked for; here, with all workers gone, whatever there is."""
    if is_worker(session.config):
        return (yield)
    interrupt_workers()
    yield
    leftovers = session.config.stash[before_the_run].leftovers(of=None if alone() else {os.getpid(), *workers})
    if leftovers:
        session.config.stash[left_by_the_run] = leftovers
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if leftovers := config.stash.get(left_by_the_run, None):
        terminalreporter.section("the run fails", red=True, bold=True)
        terminalreporter.line(f"left behind by this run: {leftovers}", red=True)
        terminalreporter.line("which test did it is said by a run of one process: make test ARGS='-n 0'")
