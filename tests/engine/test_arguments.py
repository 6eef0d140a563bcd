"""Arguments of the wrong kind: one sentence, and no database is made for them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autotune
from autotune import Categorical, Int, Protocol, SearchSpace, Study, UsageError


def space() -> SearchSpace:
    return SearchSpace([Int("x", 0, 20), Categorical("c", ["a", "b"])])


def evaluate(config: dict[str, Any]) -> float:
    return float(config["x"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"seed": True}, "seed is True"),
        ({"study": ""}, "study name ''"),
        ({"study": None}, "study name None"),
        ({"default": {"x": 99}}, "default configuration is not feasible"),
        ({"default": "x"}, "default is 'x'; give a mapping"),
        ({"baselines": [1]}, "baselines is [1]; give a mapping"),
        ({"baselines": {"b": None}}, "baseline 'b'"),
        ({"evaluate": 3}, "evaluate is 3"),
        ({"evaluate": None}, "evaluate is None"),
        ({"trials": "5"}, "trials is '5'"),
        ({"trials": 2.5}, "trials is 2.5"),
        ({"trials": True}, "trials is True"),
        ({"timeout_s": math.nan}, "timeout_s is nan"),
        ({"timeout_s": "3"}, "timeout_s is '3'"),
        ({"objectives": 3}, "objectives is 3"),
        ({"objectives": [3]}, "objectives is [3]"),
        ({"objectives": []}, "objectives is empty"),
        ({"strategy": 3}, "strategy is 3"),
        ({"strategy": int}, "strategy is <class 'int'>"),
        ({"protocol": None}, "protocol is None"),
        ({"options": {"a": 1}}, "options are a domain's"),
        ({"constraints": [4]}, "constraints is [4]"),
        ({"space": None}, "space is None"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_file_is_made(
    tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"space": space(), "evaluate": evaluate, "storage": f"sqlite:///{tmp_path}/a.db", **wrong}
    with pytest.raises(UsageError) as caught:
        autotune.search(**given)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_loading_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Study.load("a", f"sqlite:///{tmp_path}/a.db")
    assert not list(tmp_path.iterdir())


def test_one_constraint_may_be_plain_text() -> None:
    result = autotune.search(space(), evaluate, "maximize value", constraints="value <= 3", trials=42)
    assert result.best is not None
    assert result.best.metrics["value"] == 3.0


def test_numpy_numbers_are_numbers() -> None:
    result = autotune.search(space(), evaluate, trials=np.int64(3), seed=np.uint32(7))
    assert result.trials["completed"] == 3


@pytest.mark.parametrize("number", [np.array(2.0), torch.tensor(2.0), np.float32(2.0), np.int64(2), 2])
def test_scalars_of_any_library_are_results(number: object) -> None:
    study = Study.create(space())
    assert study.tell(study.ask(), number).values == {"value": 2.0}  # type: ignore[arg-type]


def test_an_integer_beyond_floats_is_no_measurement() -> None:
    study = Study.create(space())
    assert study.tell(study.ask(), 10**400).failure_kind == "nan"


@pytest.mark.parametrize("n", ["a", 1.5, 0, True])
def test_asking_for_what_is_no_number_of_trials(n: Any) -> None:
    with pytest.raises(UsageError, match="n is"):
        Study.create(space()).ask(n)


def test_telling_what_is_no_trial() -> None:
    with pytest.raises(UsageError, match="trial is 0"):
        Study.create(space()).tell(0, 1.0)  # type: ignore[arg-type]


def test_repeats_that_are_no_numbers() -> None:
    with pytest.raises(UsageError, match="min_repeats is '3'"):
        Protocol(min_repeats="3")  # type: ignore[arg-type]
