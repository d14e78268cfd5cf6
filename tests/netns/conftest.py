"""What several files of this folder begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.capture_helpers import Space, spaces


@pytest.fixture
def host() -> Iterator[Space]:
    """A bare host for `meshd.capture`; files that need more of it, or a router on it, have a `host` of their own."""
    with spaces("host") as (space,):
        yield space
