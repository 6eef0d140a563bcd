"""The page on strategies against what there is: classes of BoTorch that it names, acquisitions that can be selected."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import get_args

from autotune.strategies.bo.selectable import SCALES, Scale
from autotune.strategies.bo.settings import Acquisition

PAGE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## What `bo` decides by")[2].partition("\n## ")[0]
ROWS = [line.strip("|").split("|") for line in SECTION.splitlines() if line.startswith("| ")][1:]


def test_every_class_of_botorch_that_is_named_exists() -> None:
    named = [path for row in ROWS for path in re.findall(r"`(\w+(?:\.\w+)+)`", row[2])]
    assert len(named) > 25
    for path in named:
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(importlib.import_module(f"botorch.{module}"), name), type), path


def test_every_row_of_botorch_names_a_class_or_says_that_there_is_none() -> None:
    for what, _, theirs in ROWS[1:]:
        assert re.search(r"`\w+\.[\w.]+`", theirs) or theirs.strip().startswith(("none;", "no class;")), what


def test_every_acquisition_has_a_row_and_no_other_is_promised() -> None:
    told = {name for row in ROWS for name in re.findall(r"acquisition=(\w+)", row[1])}
    assert told == set(get_args(Acquisition))


def test_how_each_meets_the_chance_of_failure_is_told() -> None:
    text = " ".join(SECTION.split())
    logs = re.search(r"log p to what is on a log scale \((.*?)\)", text)
    products = re.search(r"multiplies what is not negative \((.*?)\)", text)
    assert logs and products
    assert set(re.findall(r"`(\w+)`", logs[1])) == {n for n, s in SCALES.items() if s is Scale.LOG}
    assert set(re.findall(r"`(\w+)`", products[1])) == {n for n, s in SCALES.items() if s is Scale.POSITIVE}
    assert {n for n, s in SCALES.items() if s in (Scale.SIGNED, Scale.DRAW)} == {"ucb", "ts"}


def test_gpytorch_has_the_kernels_that_botorch_has_no_model_for() -> None:
    kernels = importlib.import_module("gpytorch.kernels")
    for name in ("RBFKernelGrad", "Matern52KernelGrad"):
        assert name in SECTION and isinstance(getattr(kernels, name), type)
