"""Every test that is written in `Pair`, `Side` or `Row` runs with both engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshd.forward.engine.choice import choose_engine
from meshd.forward.engine.native.threaded import ThreadedEngine
from tests.engine import pair

# Where the native engine could not be built, this says why: `make setup-test` builds it.
ENGINES = {name: choose_engine(name, "loop")[0] for name in ("python", "native")} | {"threaded": ThreadedEngine}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if any(hasattr(metafunc.module, name) for name in ("Pair", "Side", "Row")):
        metafunc.parametrize("engine_kind", list(ENGINES), indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def engine_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Module scope, since hypothesis allows no fixture that is made anew for each test but not for each example."""
    before = pair.Side.engine_type
    pair.Side.engine_type = ENGINES[getattr(request, "param", "python")]
    yield
    pair.Side.engine_type = before
