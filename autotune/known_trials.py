"""What one process knows of a study's trials: read from the store, or written by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autotune.space import Config
from autotune.store import Proposal, TrialRecord, TrialState


class KnownTrials:
    """The trials of a study as they were last read.

    Args:
        worker: this process, as the store names it.
        first: by hash, what is proposed before the strategy is asked: a label and a configuration each.
        changes: the trials as they are now that have changed since a revision of the study.

    Attributes:
        first: those of which no trial has turned up yet.
        open: numbers of trials that wait, or that another worker holds.
        revision: of the study, up to which nothing is missing here.
    """

    def __init__(
        self,
        worker: str,
        first: Mapping[str, tuple[str, Config]],
        changes: Callable[[int], Sequence[TrialRecord]],
    ) -> None:
        self.first = dict(first)
        self.open: set[int] = set()
        self.revision = 0
        self._worker = worker
        self._changes = changes
        self._trials: list[TrialRecord] = []
        self._hashes: set[tuple[str, str | None]] = set()  # of configurations, each with a fidelity
        self._cheaper: set[int] = set()  # numbers

    @property
    def all(self) -> tuple[TrialRecord, ...]:
        """Every trial, by number."""
        return tuple(self._trials)

    @property
    def counted(self) -> int:
        """How many are of the fidelity that counts."""
        return len(self._trials) - len(self._cheaper)

    @property
    def cheaper(self) -> int:
        """How many are of cheaper ones."""
        return len(self._cheaper)

    def new(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Those of configurations that are not known at their fidelity, each once; and replicates."""
        known = set[tuple[str, str | None]]()
        found: list[Proposal] = []
        for proposal in proposals:
            key = (proposal.config_hash, proposal.fidelity)
            if proposal.replicate or not (key in self._hashes or key in known):
                found.append(proposal)
            known.add(key)
        return found

    def wrote(self, record: TrialRecord) -> None:
        """What this process wrote itself, so that it need not be read again where nobody else wrote in between."""
        if record.number <= len(self._trials):
            self._set(record)
            if record.revision == self.revision + 1:
                self.revision = record.revision

    def refresh(self) -> None:
        """Read all that has changed since `revision`."""
        for record in self._changes(self.revision):
            self._set(record)
            self.revision = max(self.revision, record.revision)

    def _set(self, record: TrialRecord) -> None:
        # Numbers are dense and begin at 0, so a trial's number is its place.
        self._trials[record.number : record.number + 1] = [record]
        self._hashes.add((record.config_hash, record.fidelity))
        if record.counts:
            self.first.pop(record.config_hash, None)
        else:
            self._cheaper.add(record.number)
        running = record.state is TrialState.RUNNING
        if record.state is TrialState.WAITING or (running and record.worker_id != self._worker):
            self.open.add(record.number)
        else:
            self.open.discard(record.number)
