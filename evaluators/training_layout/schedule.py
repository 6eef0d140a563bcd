"""What every pipeline stage does when, in one training step: the schedules that `step.step_time` has formulas of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One pass of one micro-batch through one model chunk of one stage; seconds since the step began."""

    stage: int
    chunk: int
    microbatch: int
    backward: bool
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Pipeline:
    """Stages that take micro-batches one forward, one backward (arXiv:2104.04473, section 2.2).

    Without interleaving a step takes ``m (f + b + loss) + (p - 1) (f + b)``. With ``v`` model chunks on every stage, of which
    micro-batches pass in groups of ``p``, the second term is divided by ``v``.

    Attributes:
        stages, chunks, microbatches: ``p``, ``v`` and ``m``; with several chunks ``p`` divides ``m``.
        forward_s, backward_s: of one micro-batch through all chunks of a stage.
        loss_s: what the last stage's backward pass takes longer.
    """

    stages: int
    chunks: int
    microbatches: int
    forward_s: float
    backward_s: float
    loss_s: float = 0.0

    def works(self) -> list[Work]:
        """All passes, stage by stage in the order in which each does them."""
        orders = [list(self._order(stage)) for stage in range(self.stages)]
        ended: dict[tuple[int, int, int, bool], float] = {}
        done: list[list[Work]] = [[] for _ in range(self.stages)]
        clocks = [0.0] * self.stages
        left = sum(map(len, orders))
        while left:
            before = left
            for stage, order in enumerate(orders):
                while len(done[stage]) < len(order):
                    chunk, microbatch, backward = order[len(done[stage])]
                    needed = self._needs(stage, chunk, microbatch, backward)
                    if needed is not None and needed not in ended:
                        break
                    begin = max(clocks[stage], 0.0 if needed is None else ended[needed])
                    clocks[stage] = begin + self._seconds(stage, chunk, backward)
                    ended[stage, chunk, microbatch, backward] = clocks[stage]
                    done[stage].append(Work(stage, chunk, microbatch, backward, begin, clocks[stage]))
                    left -= 1
            if left == before:
                raise ValueError(f"{self} has no schedule: with several chunks, stages must divide micro-batches")
        return [work for of_stage in done for work in of_stage]

    def _seconds(self, stage: int, chunk: int, backward: bool) -> float:
        if not backward:
            return self.forward_s / self.chunks
        last = stage == self.stages - 1 and chunk == self.chunks - 1
        return self.backward_s / self.chunks + (self.loss_s if last else 0.0)

    def _order(self, stage: int) -> Iterator[tuple[int, int, bool]]:
        """Chunk, micro-batch and direction of what a stage does: forward passes to fill the pipeline, then one of each."""
        total = self.microbatches * self.chunks
        ahead = self.stages - stage - 1
        if self.chunks > 1:
            ahead = 2 * ahead + (self.chunks - 1) * self.stages
        ahead = min(ahead, total)
        for number in range(total + ahead):
            if number < total:
                yield (*self._virtual(number), False)
            if number >= ahead:
                chunk, microbatch = self._virtual(number - ahead)
                yield self.chunks - 1 - chunk, microbatch, True

    def _virtual(self, number: int) -> tuple[int, int]:
        """Chunk and micro-batch of the n-th forward pass of any stage."""
        if self.chunks == 1:
            return 0, number
        group, within = divmod(number, self.stages * self.chunks)
        return within // self.stages, group * self.stages + within % self.stages

    def _needs(self, stage: int, chunk: int, microbatch: int, backward: bool) -> tuple[int, int, int, bool] | None:
        """The pass of another stage, or the last one's own forward pass, that a pass waits for."""
        last = self.stages - 1
        if not backward:
            if stage > 0:
                return stage - 1, chunk, microbatch, False
            return (last, chunk - 1, microbatch, False) if chunk > 0 else None
        if stage < last:
            return stage + 1, chunk, microbatch, True
        if chunk < self.chunks - 1:
            return 0, chunk + 1, microbatch, True
        return stage, chunk, microbatch, False
