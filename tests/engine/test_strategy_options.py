"""Options of a strategy: from the user to the strategy, kept with the study, refused where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

import autotune
from autotune import STRATEGIES, Settings, Store, Study, Task, UsageError
from autotune.objective import Objective
from tests.engine.informed import Informed, InformedSettings, away, line


@pytest.fixture(autouse=True)
def informed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strategy by name, as a study that is loaded needs it."""
    monkeypatch.setitem(STRATEGIES, "informed", Informed)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


def proposed(study: Study) -> int:
    """What the strategy asks for next."""
    trial = study.ask()
    study.tell(trial, away(trial.config))
    return int(trial.config["x"])


def test_options_reach_the_strategy() -> None:
    def second(options: dict[str, Any] | None) -> int:
        study = Study.create(line(), strategy="informed", strategy_options=options)
        return [proposed(study) for _ in range(2)][1]

    assert second(None) == second({"order": "up"}) == 0
    assert second({"order": "down"}) == 30


def test_search_takes_them_too_and_texts_become_what_the_types_say(url: str) -> None:
    options = {"order": "down", "weight": "2.5", "deep": "true"}
    result = autotune.search(line(), away, strategy="informed", strategy_options=options, trials=3, storage=url)
    assert [t.config["x"] for t in result.study.trials] == [15, 30, 29]
    stored = {"order": "down", "weight": 2.5, "deep": True}
    assert Store(url).load_study("study").strategy_options == stored


@pytest.mark.parametrize(
    ("strategy", "options", "says"),
    [
        (
            "informed",
            {"ordr": "up"},
            "strategy 'informed': option 'ordr' is unknown (did you mean 'order'?); known are: order, weight, deep",
        ),
        (
            "informed",
            {"order": "sideways"},
            "strategy 'informed': option order = 'sideways': input should be 'up' or 'do",
        ),
        ("informed", {"weight": 0}, "strategy 'informed': option weight = 0: input should be greater than 0"),
        ("informed", {3: 4}, "option '3' is unknown"),
        ("informed", ["order"], "strategy_options is ['order']; give a mapping"),
        ("informed", 0, "strategy_options is 0; give a mapping"),
        ("tpe", {"n_startup_trials": 5}, "strategy 'tpe' has no options; leave out 'n_startup_trials'"),
        ("auto", {"order": "up"}, "strategy 'auto': option 'order' is unknown; known are: members"),
        (None, {"order": "up"}, "strategy 'auto': option 'order' is unknown; known are: members"),
        (optuna.samplers.RandomSampler(), {"seed": 1}, "strategy 'RandomSampler' has no options"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_writes_nothing(
    tmp_path: Path, url: str, strategy: Any, options: Any, says: str
) -> None:
    with pytest.raises(UsageError) as told:
        autotune.search(line(), away, strategy=strategy, strategy_options=options, storage=url)
    assert says in str(told.value) and "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_study_that_is_gone_on_with_keeps_its_options(url: str) -> None:
    whole = Study.create(line(), strategy="informed", strategy_options={"order": "down"})
    wanted = [proposed(whole) for _ in range(5)]
    autotune.search(line(), away, strategy="informed", strategy_options={"order": "down"}, trials=2, storage=url)
    assert proposed(Study.load("study", url)) == wanted[2]
    autotune.search(line(), away, trials=4, storage=url)
    same = autotune.search(
        line(), away, strategy="informed", strategy_options={"order": "down", "deep": False}, trials=5, storage=url
    )  # what is said again, a default among it, is no other option
    assert [t.config["x"] for t in same.study.trials] == wanted


@pytest.mark.parametrize("options", [{"order": "up"}, {}, {"order": "down", "weight": 3}])
@pytest.mark.parametrize("strategy", [None, "informed"])
def test_other_options_need_another_study(url: str, strategy: str | None, options: dict[str, Any]) -> None:
    given = {"strategy": "informed", "strategy_options": {"order": "down"}}
    autotune.search(line(), away, trials=2, storage=url, **given)  # type: ignore[arg-type]
    says = "has the strategy options {'order': 'down'}, not .*; choose another study name"
    with pytest.raises(UsageError, match=says):
        autotune.search(line(), away, trials=3, storage=url, strategy=strategy, strategy_options=options)
    with pytest.raises(UsageError, match=says):
        Study.load("study", url, strategy=strategy, strategy_options=options)
    assert len(Study.load("study", url).trials) == 2


def test_options_stay_with_their_strategy(url: str) -> None:
    autotune.search(line(), away, strategy="local", trials=2, storage=url)
    other = Study.load("study", url, strategy="informed", strategy_options={"order": "down"})
    assert proposed(other) == 30
    again = Study.load("study", url)  # the study's own strategy, which has none
    assert again.ask().config["x"] not in (15, 30)
    with pytest.raises(UsageError, match="strategy 'local' has no options"):
        Study.load("study", url, strategy_options={"order": "down"})


def test_another_strategy_leaves_the_options_aside(url: str) -> None:
    autotune.search(line(), away, strategy="informed", strategy_options={"order": "down"}, trials=2, storage=url)
    Study.load("study", url, strategy="random").ask()
    assert Store(url).load_study("study").strategy_options == {"order": "down"}


def test_settings_of_another_strategy_are_refused() -> None:
    class Others(Settings):
        order: str = "up"

    def task(settings: Settings | None) -> Task:
        return Task(line(), (Objective("value"),), (), {"x": 15}, 0, settings=settings)

    with pytest.raises(UsageError, match="'informed' takes settings of the type InformedSettings, not Others"):
        Informed(task(Others()))
    assert Informed(task(None)).settings == InformedSettings()
    assert Informed(task(InformedSettings(order="down"))).settings == InformedSettings(order="down")


def test_a_strategy_inside_optuna_takes_options() -> None:
    from autotune.integrations.optuna import StrategySampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = StrategySampler(line(), "informed", strategy_options={"order": "down"})
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: away({"x": trial.suggest_int("x", 0, 30)}), n_trials=2)
    assert [t.params["x"] for t in study.trials] == [15, 30]
    with pytest.raises(UsageError, match="'informed': option 'odd' is unknown"):
        StrategySampler(line(), "informed", strategy_options={"odd": 1})
