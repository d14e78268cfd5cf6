"""What several files of this folder begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.capture_helpers import Space, spaces

ENGINES = ("native", "python")


@pytest.fixture
def host() -> Iterator[Space]:
    """A bare host for `meshd.capture`; files that need more of it, or a router on it, have a `host` of their own."""
    with spaces("host") as (space,):
        yield space


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Files whose hosts are launched with `engine` run with the native one; what `both_engines` marks in them, with python too."""
    if "engine" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("both_engines") is not None
        metafunc.parametrize("engine", ENGINES if both else ENGINES[:1], scope="module", indirect=True)


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> str:
    """For `meshd launch --engine`."""
    return str(request.param)
