"""Earlier studies to learn from: what of them is read, kept, and read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune import STRATEGIES, Categorical, Failure, Int, SearchSpace, Source, Store, Study, UsageError
from autotune.space import Config
from autotune.store import SourceRecord
from tests.engine.informed import Informed, away, line


@pytest.fixture(autouse=True)
def informed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "informed", Informed)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'elsewhere.db'}"


def earlier(storage: str | Store, name: str = "old", values: dict[int, float] | None = None, **settings: Any) -> Study:
    """A study that measured these values of x, the default's among them."""
    study = Study.create(line(), storage=storage, name=name, strategy="exhaustive", **settings)
    go_on(study, values or {15: 9.0, 7: 0.0})
    return study


def go_on(study: Study, values: dict[int, float]) -> None:
    for trial in study.ask(31):
        if trial.config["x"] in values:
            study.tell(trial, values[trial.config["x"]])
        else:
            study.release(trial)


def learning(storage: str | Store, sources: Any, **settings: Any) -> Study:
    return Study.create(line(), storage=storage, name="new", strategy="informed", transfer_from=sources, **settings)


def sources_of(study: Study) -> tuple[Source, ...]:
    return study.history.task.sources


def second(study: Study) -> int:
    study.tell(study.ask(), 5.0)
    return int(study.ask().config["x"])


# What is read


@pytest.mark.parametrize("way", ["name", "url", "study", "list", "same url"])
def test_every_way_to_name_a_source_gives_the_same(url: str, elsewhere: str, way: str) -> None:
    inside = way in ("name", "same url")
    old = earlier(url if inside else elsewhere)
    named: Any = {
        "name": "old", "url": f"{elsewhere}#old", "study": old, "list": [old], "same url": f"{url}#old",
    }[way]  # fmt: skip
    study = learning(url, named)
    (source,) = sources_of(study)
    assert {t.config["x"]: t.values for t in source.trials} == {15: {"value": 9.0}, 7: {"value": 0.0}}
    assert source.objectives == old.objectives
    assert [p.name for p in source.space.parameters] == ["x"]
    assert source.name == ("old" if inside else f"{elsewhere}#old")
    assert second(study) == 7
    (kept,) = Store(url).load_study("new").sources
    assert (kept.storage, kept.name, kept.trials) == (None if inside else elsewhere, "old", 2)


def test_several_sources_come_in_their_order_and_without_one_nothing_is_kept(url: str) -> None:
    earlier(url, "b")
    earlier(url, "a", {15: 1.0})
    study = autotune.search(line(), away, strategy="informed", transfer_from=["b", "a"], storage=url, trials=2).study
    assert study.trials[1].notes == {"sources": {"b": 2, "a": 1}}
    for nothing in (None, []):
        name = f"new {nothing}"
        assert autotune.search(line(), away, storage=url, study=name, transfer_from=nothing, trials=1).best is not None
        assert Store(url).load_study(name).sources == ()


def test_failures_of_configurations_are_learned_from_and_what_is_not_finished_is_not() -> None:
    store = Store()
    study = Study.create(line(), storage=store, name="old", strategy="exhaustive")
    first, second_, third, *_ = study.ask(4)
    study.tell(first, 3.0)
    study.tell(second_, Failure("oom", "too large"))
    for _ in range(3):
        study.tell(third, Failure("infra", "the node died"))
        third = study.ask() if study.trials[third.number].state == "waiting" else third
    (source,) = sources_of(learning(store, "old"))
    assert [(t.number, t.state.value) for t in source.trials] == [
        (first.number, "completed"),
        (second_.number, "failed"),
    ]


def test_constraints_that_are_functions_and_tables_do_not_keep_a_source_from_being_read(url: str) -> None:
    def small(x: int) -> bool:
        return x < 25

    table = autotune.Constraint.table(["x"], [[x] for x in range(20)])
    space = SearchSpace([Int("x", 0, 30)], [small, "x != 3", table])
    autotune.search(space, away, trials=3, storage=url, study="old")
    (source,) = sources_of(learning(url, "old"))
    assert len(source.trials) == 3
    assert source.space.contains({"x": 19}) and not source.space.contains({"x": 3})
    assert not source.space.contains({"x": 22})


def test_a_source_in_memory_serves_while_it_lives() -> None:
    old = earlier("sqlite://")
    assert second(learning("sqlite://", old)) == 7
    store = old.store
    again = learning(store, old)
    assert again.record.sources[0].storage is None


# What is kept


def test_a_resumed_search_learns_from_what_there_was(url: str, elsewhere: str) -> None:
    def run(storage: str, *, pause: Callable[[], None] | None = None) -> list[Any]:
        given: dict[str, Any] = {"space": line(), "evaluate": away, "storage": storage, "study": "new"}
        autotune.search(**given, strategy="informed", transfer_from=f"{elsewhere}#old", trials=3)
        if pause is not None:
            pause()
        study = autotune.search(**given, trials=6).study
        return [(t.config, t.notes) for t in study.trials]

    old = earlier(elsewhere, values={15: 9.0, 7: 0.0, 22: 30.0})
    wanted = run(url)
    fresh = url.replace("runs", "again")
    assert run(fresh, pause=lambda: go_on(old, {2: 0.0, 3: 0.0, 29: -0.5})) == wanted
    assert learning(url.replace("runs", "later"), f"{elsewhere}#old").record.sources[0].trials == 6


def test_a_source_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    earlier("sqlite:///elsewhere.db")
    learning("sqlite:///runs.db", "sqlite:///elsewhere.db#old")
    monkeypatch.chdir(tmp_path / "other")
    assert len(sources_of(Study.load("new", "sqlite:///../runs.db"))[0].trials) == 2


def test_a_source_that_is_gone_is_told_with_the_way_out(url: str, elsewhere: str) -> None:
    earlier(elsewhere)
    given: dict[str, Any] = {"space": line(), "evaluate": away, "storage": url, "study": "new"}
    autotune.search(**given, strategy="informed", transfer_from=f"{elsewhere}#old", trials=2)
    Path(elsewhere.removeprefix("sqlite:///")).unlink()
    says = r"study 'new' learns from .*elsewhere.db#old, which cannot be read: .*does not exist.*transfer_from=\[\]"
    with pytest.raises(UsageError, match=says):
        Study.load("new", url)
    with pytest.raises(UsageError, match=says):
        autotune.search(**given)
    without = Study.load("new", url, transfer_from=[])
    assert sources_of(without) == ()
    assert autotune.search(**given, transfer_from=[], trials=3).study.trials[2].notes == {"sources": {}}
    assert Store(url).load_study("new").sources  # still what it was made with
    earlier(elsewhere, values={15: 9.0})
    with pytest.raises(
        UsageError, match=r"learns from 2 trials of .*, which has 1 of them now, so it is another study"
    ):
        Study.load("new", url)


def test_a_source_that_was_in_memory_is_gone(url: str) -> None:
    old = earlier("sqlite://")
    learning(url, old)
    with pytest.raises(UsageError, match="which was in memory only; give transfer_from again, or go on without"):
        Study.load("new", url)
    assert len(sources_of(Study.load("new", url, transfer_from=old))[0].trials) == 2


def test_another_strategy_leaves_the_sources_aside(url: str) -> None:
    earlier(url)
    learning(url, "old").ask()
    assert sources_of(Study.load("new", url, strategy="local")) == ()


@pytest.mark.parametrize("others", [["old", "older"], ["older"], ["older", "old"]])
def test_other_sources_need_another_study(url: str, others: list[str]) -> None:
    earlier(url)
    earlier(url, "older")
    learning(url, "old")
    with pytest.raises(UsageError, match=f"has transfer from old, not from {', '.join(others)}; choose"):
        autotune.search(line(), away, storage=url, study="new", transfer_from=others)
    Study.create(line(), storage=url, name="alone", strategy="informed")
    with pytest.raises(UsageError, match="has transfer from nothing, not from old; choose another study name"):
        autotune.search(line(), away, storage=url, study="alone", transfer_from="old")
    assert len(sources_of(Study.load("new", url, transfer_from="old"))) == 1


def test_a_password_is_not_kept_and_asked_for_again(url: str, postgres_url: str) -> None:
    secret = postgres_url.replace("autotune@", "autotune:hunter2@")
    earlier(secret)
    study = learning(url, f"{secret}#old")
    assert "hunter2" not in str(study.record) and study.record.sources[0].trials == 2
    with pytest.raises(UsageError, match="has a password, which is not kept; give transfer_from again"):
        Study.load("new", url)
    assert len(sources_of(Study.load("new", url, transfer_from=f"{secret}#old"))) == 1


def test_sources_are_kept_as_they_were_given(url: str) -> None:
    record = Store(url).create_study(
        name="s", space={}, space_hash="0", objectives=["minimize value"], constraints=[], default_config={},
        strategy="bo", seed=0, strategy_options={"a": 1},
        sources=[SourceRecord(None, "a", 3, 7), SourceRecord("sqlite:////b.db", "ü#", 1, 2)],
    )  # fmt: skip
    assert record.sources == (SourceRecord(None, "a", 3, 7), SourceRecord("sqlite:////b.db", "ü#", 1, 2))
    assert [str(source) for source in record.sources] == ["a", "sqlite:////b.db#ü#"]


# What is refused


def other_space() -> SearchSpace:
    return SearchSpace([Categorical("mode", ["a", "b"])])


def loss(config: Config) -> dict[str, float]:
    return {"loss": 1.0}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("odd", "transfer_from 'odd': study 'odd' does not exist in sqlite:///"),
        ("new", "transfer_from 'new' is the study itself; name an earlier one"),
        (["old", "old"], "transfer_from 'old' is given twice; keep one"),
        ("empty", "transfer_from 'empty': study 'empty' has no finished trial to learn from; run it first"),
        (
            "unlike",
            "transfer_from 'unlike' shares no parameter with this search space: it has mode, and not x; leave it",
        ),
        ("loss", "transfer_from 'loss' measured no objective of this study: it has loss, and not value; leave it out"),
        ("sqlite:///nowhere.db#old", "nowhere.db#old': storage 'sqlite:///nowhere.db' does not exist; check the path"),
        (
            "sqlite:///runs.db",
            "transfer_from 'sqlite:///runs.db' names a database but no study; write it as 'URL#NAME'",
        ),
        ("oracle://x#old", "names the database 'oracle'"),
        (3, "transfer_from is 3; give the name of a study"),
        ([None], "transfer_from is [None]; give the name of a study"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_sentence(url: str, given: Any, says: str) -> None:
    earlier(url)
    Study.create(line(), storage=url, name="empty").ask()
    autotune.search(other_space(), lambda c: 1.0, trials=1, storage=url, study="unlike")
    autotune.search(line(), loss, "loss", trials=1, storage=url, study="loss")
    with pytest.raises(UsageError) as told:
        autotune.search(line(), away, strategy="informed", storage=url, study="new", transfer_from=given)
    assert says in str(told.value) and "\n" not in str(told.value)
    assert Store(url).find_study("new") is None


def test_a_source_by_name_needs_a_storage_that_is_there(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="the storage of the new study holds no study yet; name another one's as 'URL"):
        autotune.search(line(), away, strategy="informed", storage=url, transfer_from="old")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strategy", ["tpe", "local"])
def test_a_strategy_that_would_not_look_at_it_is_refused(url: str, elsewhere: str, strategy: str) -> None:
    old = earlier(elsewhere)
    with pytest.raises(UsageError, match="does not learn from earlier studies; choose one that does, such as bo"):
        autotune.search(line(), away, strategy=strategy, storage=url, transfer_from=old)
    assert not Path(url.removeprefix("sqlite:///")).exists()
    autotune.search(line(), away, strategy="local", storage=url, trials=1)
    with pytest.raises(UsageError, match="has transfer from nothing, not from"):
        Study.load("study", url, transfer_from=old)
