"""Earlier studies that a search learns from: named by the user, read once, and read alike when the search is resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from autotune.errors import UsageError
from autotune.measurement import FailureKind
from autotune.objective import Objective
from autotune.space import SearchSpace
from autotune.store import SourceRecord, Store, StudyRecord, TrialRecord, TrialState
from autotune.store.engine import absolute_url, hides_password, in_memory, same_database
from autotune.strategies import Source

if TYPE_CHECKING:
    from autotune.study import Study

TransferFrom: TypeAlias = "str | Study | Iterable[str | Study]"

_GIVE = "give the name of a study, 'URL#NAME', an autotune.Study, or a list of these"
_WITHOUT = "go on without it by transfer_from=[] (--no-transfer)"


@dataclass(frozen=True)
class Transfer:
    """An earlier study as it was read: what the strategy is given, and what is stored to read the same again."""

    source: Source
    record: SourceRecord


def stored_space(given: Mapping[str, Any]) -> SearchSpace:
    """A study's search space without the constraints that are functions, which matter only to what is proposed."""
    kept = [c for c in given.get("constraints", ()) if isinstance(c, str) or "callable" not in c]
    return SearchSpace.from_dict({**given, "constraints": kept})


def read(given: TransferFrom | None, store: Store | None, study: str) -> tuple[Transfer, ...]:
    """Read the studies that a new one shall learn from, all that finished in them.

    Args:
        given: names of studies in `store`, ``URL#NAME`` for those of other databases, or studies.
        store: the new study's; None where its database is not made yet.
        study: the new study's name.

    Raises:
        UsageError: for a study that is not there, has nothing finished, is given twice, or is the new one itself.
    """
    return tuple(_read(place, store) for place in _places(given, store, study))


def reread(record: StudyRecord, given: TransferFrom | None, store: Store) -> tuple[Transfer, ...]:
    """Read what a study learned from when it was made, up to where it was read then.

    Args:
        record: the study that is gone on with.
        given: None for what is stored; empty to go on without; else the same sources again, such as with a password.
        store: the study's.

    Raises:
        UsageError: when a source is gone or has changed, or others are given.
    """
    if given is None:
        return tuple(
            _again(record.name, source, _stored_place(source, record.name), store) for source in record.sources
        )
    places = _places(given, store, record.name)
    if not places:
        return ()
    before, now = [str(source) for source in record.sources], [place.shown for place in places]
    if before != now:
        raise UsageError(
            f"study {record.name!r} in {store.url} has transfer from {', '.join(before) or 'nothing'}, not from "
            f"{', '.join(now)}; choose another study name"
        )
    return tuple(
        _again(record.name, source, place, store) for source, place in zip(record.sources, places, strict=True)
    )


@dataclass(frozen=True)
class _Place:
    """Where a source is: in the study's own store, an open store of somebody else, or a database to open."""

    name: str
    url: str | None = None
    store: Store | None = None

    @property
    def storage(self) -> str | None:
        """What is stored of it; None for the study's own database."""
        if self.store is not None:
            return absolute_url(self.store.url)
        return None if self.url is None else absolute_url(self.url)

    @property
    def shown(self) -> str:
        return self.name if self.storage is None else f"{self.storage}#{self.name}"

    @property
    def identity(self) -> tuple[str, int | None]:
        """What sets it apart: two databases in memory have one URL."""
        alone = self.store if self.store is not None and in_memory(self.store.url) else None
        return self.shown, None if alone is None else id(alone)

    @contextmanager
    def opened(self, own: Store | None) -> Iterator[Store]:
        if self.store is not None or self.url is None:
            found = self.store if self.store is not None else own
            if found is None:
                raise UsageError("the storage of the new study holds no study yet; name another one's as 'URL#NAME'")
            yield found
            return
        other = Store(self.url, read_only=True)
        try:
            yield other
        finally:
            other.close()


def _places(given: TransferFrom | None, own: Store | None, study: str) -> list[_Place]:
    from autotune.study import Study  # noqa: PLC0415 - a study reads its sources by way of this module

    if given is None:
        return []
    items = [given] if isinstance(given, (str, Study)) else list(given) if isinstance(given, Iterable) else [None]
    places = [_place(item, own) if isinstance(item, (str, Study)) else None for item in items]
    found = [place for place in places if place is not None]
    if len(found) != len(places):
        raise UsageError(f"transfer_from is {given!r}; {_GIVE}")
    for index, place in enumerate(found):
        if place.storage is None and place.name == study:
            raise UsageError(f"transfer_from {place.name!r} is the study itself; name an earlier one")
        if place.identity in [other.identity for other in found[:index]]:
            raise UsageError(f"transfer_from {place.shown!r} is given twice; keep one")
    return found


def _place(item: str | Study, own: Store | None) -> _Place:
    if not isinstance(item, str):
        same = item.store is own or (own is not None and same_database(item.store.url, own.url))
        return _Place(item.name) if same else _Place(item.name, store=item.store)
    if "://" not in item:
        return _Place(item)
    url, _, name = item.partition("#")
    if not name:
        raise UsageError(f"transfer_from {item!r} names a database but no study; write it as 'URL#NAME'")
    return _Place(name) if own is not None and same_database(url, own.url) else _Place(name, url)


def _read(place: _Place, own: Store | None) -> Transfer:
    try:
        with place.opened(own) as store:
            return _contents(store, place)
    except UsageError as error:
        raise UsageError(f"transfer_from {place.shown!r}: {error}") from None


def _again(study: str, source: SourceRecord, place: _Place, own: Store) -> Transfer:
    try:
        with place.opened(own) as store:
            found = _contents(store, place, source.revision)
    except UsageError as error:
        raise UsageError(f"study {study!r} learns from {source}, which cannot be read: {error}; {_WITHOUT}") from None
    if len(found.source.trials) != source.trials:
        raise UsageError(
            f"study {study!r} learns from {source.trials} trials of {source}, which has {len(found.source.trials)} of "
            f"them now, so it is another study; {_WITHOUT}"
        )
    return Transfer(found.source, source)


def _contents(store: Store, place: _Place, revision: int | None = None) -> Transfer:
    """What a source holds, up to a revision or in all."""
    record = store.load_study(place.name)
    trials = tuple(
        trial
        for trial in store.trials(record.id)
        if _says_something(trial) and (revision is None or trial.revision <= revision)
    )
    if not trials and revision is None:
        raise UsageError(f"study {place.name!r} has no finished trial to learn from; run it first, or leave it out")
    objectives = tuple(map(Objective.parse, record.objectives))
    last = max((trial.revision for trial in trials), default=0)
    return Transfer(
        Source(place.shown, stored_space(record.space), objectives, trials),
        SourceRecord(place.storage, place.name, len(trials), last),
    )


def _says_something(trial: TrialRecord) -> bool:
    failed = trial.state is TrialState.FAILED and trial.failure_kind is not FailureKind.INFRA
    return trial.counts and (failed or trial.state is TrialState.COMPLETED)


def _stored_place(source: SourceRecord, study: str) -> _Place:
    """Where a source is by what is stored of it."""
    why = None
    if source.storage is not None and in_memory(source.storage):
        why = "was in memory only"
    elif source.storage is not None and hides_password(source.storage):
        why = "has a password, which is not kept"
    if why is not None:
        raise UsageError(f"study {study!r} learns from {source}, which {why}; give transfer_from again, or {_WITHOUT}")
    return _Place(source.name, source.storage)
