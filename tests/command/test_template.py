from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.command.template import Template, format_value
from autotune.errors import UsageError


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("plain", "plain"),
        ("--tile={tile}", "--tile=8"),
        ("{tile}x{tile}", "8x8"),
        ("{budgets}", "1,2,4"),
        ("b{budgets[2]}", "b4"),
        ("{{tile}}", "{tile}"),
        ("{{{tile}}}", "{8}"),
        ("{on?--unroll}", "--unroll"),
        ("{off?--unroll}", None),
        ("{on}", "true"),
        ("--w={inactive}", None),
        ("--w={null}", None),
        ("{text}", "a b; rm -rf $HOME"),
    ],
)
def test_rendering(text: str, rendered: str | None) -> None:
    values = {"tile": 8, "budgets": [1, 2, 4], "on": True, "off": False, "null": None, "text": "a b; rm -rf $HOME"}
    assert Template.parse(text).render(values) == rendered


@pytest.mark.parametrize("text", ["{", "}", "{}", "{a b}", "{a.b}", "{a[x]}", "{a:.2f}", "{0}", "{a{b}}"])
def test_what_is_no_placeholder_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no placeholder; write \{name\}"):
        Template.parse(text)


@given(st.text())
def test_escaped_text_renders_as_itself(text: str) -> None:
    escaped = text.replace("{", "{{").replace("}", "}}")
    assert Template.parse(escaped).render({}) == text


@given(st.floats(allow_nan=False))
def test_numbers_read_back_exactly(value: float) -> None:
    for given_value in (value, np.float64(value)):
        assert math.copysign(1, float(format_value(given_value))) == math.copysign(1, value)
        assert float(format_value(given_value)) == value


@pytest.mark.parametrize(("value", "text"), [(np.int64(3), "3"), (np.bool_(True), "true"), (1e-5, "1e-05"), ("x", "x")])
def test_values_of_other_types(value: Any, text: str) -> None:
    assert format_value(value) == text
