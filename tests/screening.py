"""What tests of fidelities share: a space, two evaluators of it, and strategies that use everything a suggestion may say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from autotune import Int, Ordinal, SearchSpace
from autotune.stopping import GAIN_NOTE
from autotune.strategies import History, Strategy, Suggestion
from autotune.strategies.base import Capabilities
from autotune.strategies.unseen import unseen_random

SHORT_PER_FULL = 3


def space() -> SearchSpace:
    return SearchSpace([Ordinal("tile", [8, 16, 32, 64], default=16), Int("threads", 1, 8, default=4)])


def full(config: dict[str, Any]) -> float:
    return abs(config["tile"] - 32) + abs(config["threads"] - 6) + 1.0


def short(config: dict[str, Any]) -> float:
    """Always better than `full`, so that one trial of it among those that are ranked would show."""
    return 0.01 * full(config)


class Screen(Strategy):
    """Looks at some configurations with the cheapest evaluator, then measures the best of these with the last."""

    name: ClassVar[str] = "screen"
    summary: ClassVar[str] = "for tests"
    capabilities: ClassVar[Capabilities] = Capabilities(several_objectives=True)

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        cheapest = self.task.fidelities[0]
        looked_at = history.at(cheapest)
        if len(looked_at.trials) < SHORT_PER_FULL * len(history.counted):
            config = unseen_random(self.task.space, looked_at.hashes, self.task.seed + len(history.trials))
            if config is not None:
                return [Suggestion(config, self.name, {}, cheapest)]
        fresh = [t for t in looked_at.ranked if t.config_hash not in history.hashes]
        return [Suggestion(dict(t.config), self.name, {}, self.task.fidelities[-1]) for t in fresh[:n]]


class Sure(Strategy):
    """Measures the best configuration again, as often as it is asked, and says what it expects of that."""

    name: ClassVar[str] = "sure"
    summary: ClassVar[str] = "for tests"
    capabilities: ClassVar[Capabilities] = Capabilities(several_objectives=True)

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        best = history.ranked[0]
        gain = 0.1 / 2 ** len(history.counted)
        return [Suggestion(dict(best.config), self.name, {GAIN_NOTE: gain}, replicate=True)]
