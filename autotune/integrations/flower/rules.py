"""From one configuration for all to settings for each client: what a rule sees, and ready-made rules. Knows nothing of Flower.

A rule is any ``rule(config, round_, client)`` that returns what this client is sent in this round. Ratios are what is kept, so
1 sends everything. Constants of the helpers are arguments, so that each can be a parameter of the search space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from autotune.checks import whole
from autotune.errors import UsageError
from autotune.space import Config

NodeId: TypeAlias = int | str


@dataclass(frozen=True)
class ClientState:
    """What is known of a client when its settings for a round are made.

    Attributes:
        node_id: as Flower has it; another one in every run of a simulation.
        away: rounds since its update last came back, 1 for the round before; None before the first time.
        returned, failures: how often its update came back, and how often it did not.
        examples: that it last trained on; None while it has not told.
        seconds: that its last training took, as it says; None where it does not.
        metrics: numbers that it last reported of training.
        settings: that it was sent for that training.
        peers: everyone who is sent something in this round, this client included.
    """

    node_id: NodeId
    away: int | None = None
    returned: int = 0
    failures: int = 0
    examples: float | None = None
    seconds: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    peers: tuple[ClientState, ...] = field(default=(), repr=False, compare=False)

    def known(self, name: str) -> float | None:
        """`examples`, `seconds`, or a metric that it last reported; None where there is no such number yet."""
        if name == "examples":
            return self.examples
        return self.seconds if name == "seconds" and self.seconds is not None else self.metrics.get(name)


Rule: TypeAlias = Callable[[Config, int, ClientState], Mapping[str, Any]]
Importance: TypeAlias = str | Callable[[ClientState], float | None]


def by_staleness(client: ClientState, round_: int, freshest: float) -> float:
    """How much of the model to send: ``1 - (1 - away / round) * (1 - freshest)``, everything to a client that never had it.

    The longer a client was away, the less it can make of a part (the download rule of Caesar, arXiv:2412.19989, as we know it).

    Args:
        round_: counted from 1.
        freshest: what a client gets that was there in the round before, for many rounds; in (0, 1].
    """
    _share("freshest", freshest)
    whole("round_", round_, 1)
    away = 1.0 if client.away is None else min(1.0, client.away / round_)
    return 1.0 - (1.0 - away) * (1.0 - freshest)


def by_rank(client: ClientState, importance: Importance, most: float, least_share: float) -> float:
    """How much of its update a client sends: `most` for the most important of the round, falling linearly by rank.

    Equally important clients get the same, and so does everyone of whom nothing is known yet: `most`.

    Args:
        importance: ``"examples"``, ``"seconds"``, the name of a metric that clients report of training, or a function of a
            client that gives a number or None.
        most: in (0, 1].
        least_share: of `most`, what the least important one sends; in (0, 1].
    """
    _share("most", most)
    _share("least_share", least_share)
    mine = _number(client, importance)
    ahead = 0 if mine is None else sum(_ahead(_number(peer, importance), mine) for peer in client.peers)
    last = max(1, len(client.peers) - 1)
    return most * (1.0 - (1.0 - least_share) * ahead / last)


def by_speed(client: ClientState, batch: int, setting: str = "batch") -> int:
    """A batch with which a slower client ends when the fastest one of the round does at `batch`; at least 1.

    For clients that take the same number of steps whatever their batch, so that seconds grow with it. What a client of
    unknown speed gets is `batch`.

    Args:
        setting: by what name clients were sent their batch before; `seconds` are told apart by it.
    """
    whole("batch", batch, 1)
    mine = _pace(client, setting)
    paces = [pace for pace in (_pace(peer, setting) for peer in client.peers) if pace is not None]
    if mine is None or not paces:
        return batch
    return max(1, int(batch * min(1.0, min(paces) / mine)))


def caesar_like(config: Config, round_: int, client: ClientState) -> dict[str, Any]:
    """A rule after Caesar (arXiv:2412.19989), a reconstruction: settings of a configuration that has its knobs.

    ``download_keep`` becomes a client's own by `by_staleness`; ``upload_keep`` with ``importance_share`` by `by_rank` of the
    metric ``importance`` that clients may report, else of their examples; ``batch`` by `by_speed`. Knobs that the configuration
    lacks are left out, and everything else is sent as it is.
    """
    settings = {name: value for name, value in config.items() if name != "importance_share"}
    if "download_keep" in settings:
        settings["download_keep"] = by_staleness(client, round_, settings["download_keep"])
    if "upload_keep" in settings:
        share = config.get("importance_share", 1.0)
        settings["upload_keep"] = by_rank(client, _importance, settings["upload_keep"], share)
    if "batch" in settings:
        settings["batch"] = by_speed(client, settings["batch"])
    return settings


def _importance(client: ClientState) -> float | None:
    return client.metrics.get("importance", client.examples)


def _number(client: ClientState, importance: Importance) -> float | None:
    return client.known(importance) if isinstance(importance, str) else importance(client)


def _ahead(other: float | None, mine: float) -> bool:
    return other is None or other > mine


def _pace(client: ClientState, setting: str) -> float | None:
    """Seconds of its last training for each sample of a step."""
    batch = client.settings.get(setting)
    if not client.seconds or not isinstance(batch, (int, float)) or batch <= 0:
        return None
    return client.seconds / batch


def _share(name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise UsageError(f"{name} is {value!r}; give a share above 0 and at most 1, of what is kept")
