"""Settings of the Bayesian engine; kept apart from it, as it loads libraries that take long to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field

from autotune.errors import UsageError
from autotune.strategies.base import Settings

Acquisition = Literal["logei", "pi", "ucb", "kg", "mes", "jes", "ts", "qlogei", "qlognei", "qlognehvi", "qlognparego"]

DEFAULT: Acquisition = "logei"
_JOINT: frozenset[Acquisition] = frozenset({"qlogei", "qlognei", "ts", "qlognehvi", "qlognparego"})
ONLY_SEVERAL: frozenset[Acquisition] = frozenset({"qlognehvi", "qlognparego"})  # that make no sense with one objective
SEVERAL = ONLY_SEVERAL | {DEFAULT}  # that know what to do with several
_WHOLE: frozenset[Acquisition] = frozenset({"logei", "pi", "ucb"})


class BayesianSettings(Settings):
    """Settings of `bo`.

    Attributes:
        acquisition: what decides among candidates; see the table in docs/strategies.md.
        seeds: answers of the domain's own solver that are measured first, at most; 0 for none.
    """

    acquisition: Acquisition = DEFAULT
    seeds: Annotated[
        int, Field(ge=0, description="answers of the domain's own solver to measure first, at most; 0 for none")
    ] = 3


def check(acquisition: Acquisition, strategy: str, objectives: int, models: Sequence[str]) -> None:
    """Refuses an acquisition that is not for so many objectives, and one that needs a model that is not there.

    Args:
        acquisition, strategy: by name.
        objectives: how many.
        models: as for `Surrogate`.

    Raises:
        UsageError: with those that could be selected.
    """
    told = f"strategy {strategy!r}: option acquisition = {acquisition!r}"
    meant = SEVERAL if objectives > 1 else set(get_args(Acquisition)) - ONLY_SEVERAL
    possible = [name for name in sorted(meant) if "gp" in models or name in _WHOLE]
    way_out = f"choose {'one of ' if len(possible) > 1 else ''}{', '.join(possible)}"
    if acquisition not in meant:
        kind, number = ("one objective", str(objectives)) if objectives > 1 else ("several objectives", "one")
        raise UsageError(f"{told} is for {kind}, and this study has {number}; {way_out}")
    if acquisition not in possible:
        raise UsageError(f"{told} needs a Gaussian process, which this strategy has not; {way_out}")


def is_joint(acquisition: Acquisition) -> bool:
    """Whether what is under way enters by its joint distribution, and not as if its expected result had been measured."""
    return acquisition in _JOINT


def is_shortlisted(acquisition: Acquisition) -> bool:
    """Whether it decides among a shortlist, by the Gaussian process alone."""
    return acquisition not in _WHOLE
