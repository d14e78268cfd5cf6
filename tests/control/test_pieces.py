"""JSON in pieces: the same text as in one, and no piece is long."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from meshd.control.pieces import PIECE_ITEMS, pieces
from meshd.control.report import build_report
from tests.control.samples import router_view

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2 * PIECE_ITEMS) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=80,
)


@given(values)
def test_together_they_are_the_same_text(value: object) -> None:
    assert "".join(pieces(value)) == json.dumps(value)


def test_a_report_of_a_thousand_hosts() -> None:
    report = build_report(router_view())
    report["Paths"] = report["Paths"] * 1000
    report["Router"]["Peers"] = report["Router"]["Peers"] * 1000
    made = list(pieces(report))
    assert "".join(made) == json.dumps(report)
    assert sum(map(len, made)) > 1_000_000
    assert max(map(len, made)) < 64 * 1024
