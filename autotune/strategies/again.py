"""Every configuration of a study measured again, round after round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from autotune.strategies.base import Capabilities, History, Strategy, Suggestion


class Again(Strategy):
    """Proposes what was measured least often, in the order in which it was measured first.

    A machine drifts: its disk, its clock and its neighbours are not the same minutes later. Configurations that take turns
    all see some of each.
    """

    name: ClassVar[str] = "again"
    summary: ClassVar[str] = "what was measured, once more"
    capabilities: ClassVar[Capabilities] = Capabilities(several_objectives=True)

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        configs = {trial.config_hash: dict(trial.config) for trial in reversed(history.trials)}
        order = list(reversed(configs))
        times = Counter(trial.config_hash for trial in history.trials)
        found: list[Suggestion] = []
        while order and len(found) < n:
            least = min(order, key=times.__getitem__)
            times[least] += 1
            found.append(replace(self.suggestion(configs[least]), replicate=True))
        return found
