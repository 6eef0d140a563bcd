"""A study driven to its end by hand, as tests of strategies do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotune import Failure, Study
from autotune.space import Config


def run(study: Study, measure: Callable[[Config], Any], trials: int, n: int = 1) -> None:
    """Ask for n at a time, measure and tell, failures included, until the study has so many trials."""
    while len(study.trials) < trials:
        for trial in study.ask(n):
            try:
                study.tell(trial, measure(trial.config))
            except Failure as failure:
                study.tell(trial, failure)
