"""Numbers are rounded, never changed, and no text of a user's becomes markup."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import text
from dashboard import markup
from dashboard.markup import Cell, Row


@given(st.floats(-1e300, 1e300))
def test_a_number_shows_four_significant_digits(value: float) -> None:
    assert math.isclose(float(text.number(value)), value, rel_tol=5.0001e-4)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12.3456, "12.35"), (0.0, "0"), (9.99996, "10"), (123456.7, "123457"), (100.0, "100"), (0.00012345, "1.234e-04"),
        (2e9, "2.000e+09"), (-0.5, "-0.5"), (math.inf, "∞"), (-math.inf, "-∞"), (math.nan, "–"), (None, "–"),
    ],
)  # fmt: skip
def test_number(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "yes"),
        (7, "7"),
        (1234567, "1234567"),
        ("lru", "lru"),
        ([0.5] * 48, "0.5 ×48"),
        ([1, 2, 6], "1 … 6, mean 3"),
        (["lru", "lru", "lfu"], "lru ×2, lfu"),
        (list("abcdefgh"), "a, b, c, d, e, f, … (8 values)"),
        ([True, False], "yes, no"),
    ],
)
def test_value(value: object, shown: str) -> None:
    assert text.value_text(value) == shown


def test_age_uses_the_largest_unit() -> None:
    now = dt.datetime(2030, 1, 10, 12, tzinfo=dt.UTC)
    gone = [dt.timedelta(seconds=5), dt.timedelta(minutes=59), dt.timedelta(hours=23), dt.timedelta(days=3, hours=5)]
    assert [text.age(now - g, now) for g in gone] == ["just now", "59 min ago", "23 h ago", "3 d ago"]
    assert text.age(now + gone[0], now) == "just now"  # the database's clock may be ahead


@given(st.text())
def test_no_text_becomes_markup(words: str) -> None:
    made = markup.table("t", [Cell(words)], [Row([Cell(words), markup.value_cell([words]), markup.value_cell(words)])])
    made += markup.cards([(words, words, words)]) + markup.study_link(words)
    plain = markup.table("t", [Cell("x")], [Row([Cell("x"), markup.value_cell(["x"]), markup.value_cell("x")])])
    plain += markup.cards([("x", "x", "x")]) + markup.study_link("x")
    for sign in "<>'\"":
        assert made.count(sign) == plain.count(sign)


def test_bars_share_one_scale_that_contains_zero() -> None:
    low, high = markup.common_scale([2.0, 4.0], [1.0, 3.0]) or (math.nan, math.nan)
    assert (low, high) == (0.0, 4.0)
    bars = markup.value_cell([1.0, 3.0], (low, high)).content
    assert "height:25.0%" in bars and "height:75.0%" in bars
    assert markup.common_scale("lru", ["a", "b"]) is None
    assert markup.common_scale([0, 0], [0, 0]) is None


def test_rounded_numbers_carry_their_noise_and_every_digit() -> None:
    shown = markup.exact(12.3456789, "ms", 0.25)
    assert shown == "<span title='12.3456789'>12.35 ± 0.25 ms</span>"
