"""Columns, ages and amounts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.control.table import age, amount, clean, pad, table, width


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.0, "0.0s"),
        (9.94, "9.9s"),
        (10.0, "10s"),
        (59.9, "59s"),
        (60.0, "1m"),
        (3599.0, "59m"),
        (3600.0, "1h"),
        (86399.0, "23h"),
        (86400.0, "1d"),
        (1e9, "11574d"),
    ],
)
def test_age(seconds: float | None, shown: str) -> None:
    assert age(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.0K"), (20 * 1024, "20K"), (3 * 2**30, "3.0G"), (2**60, "1048576T")],
)
def test_amount(count: int, shown: str) -> None:
    assert amount(count) == shown


@pytest.mark.parametrize(("text", "cells"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("é", 1), ("", 0)])
def test_width_is_what_a_terminal_takes(text: str, cells: int) -> None:
    assert width(text) == cells
    assert width(pad(text, 6)) == 6


def test_wide_names_keep_the_columns_straight() -> None:
    assert table(("A", "B"), [("日本", "x"), ("abc", "")]) == "A     B\n日本  x\nabc\n"


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("A", "B"), []) == "A  B\n"


@given(st.text())
def test_clean_text_is_one_printable_line_and_stays_so(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert clean(cleaned) == cleaned
    assert len(cleaned) == len(text)
