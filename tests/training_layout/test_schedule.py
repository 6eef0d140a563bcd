"""Schedules of pipelines, and which part of a layout every GPU holds."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.training_layout.grid import Grid
from evaluators.training_layout.schedule import Pipeline


def test_two_stages_and_two_micro_batches_by_hand() -> None:
    works = Pipeline(stages=2, chunks=1, microbatches=2, forward_s=1.0, backward_s=2.0).works()
    told = [(w.stage, "fb"[w.backward], w.microbatch, w.begin_s, w.end_s) for w in works]
    assert told == [
        (0, "f", 0, 0.0, 1.0),
        (0, "f", 1, 1.0, 2.0),
        (0, "b", 0, 4.0, 6.0),
        (0, "b", 1, 7.0, 9.0),
        (1, "f", 0, 1.0, 2.0),
        (1, "b", 0, 2.0, 4.0),
        (1, "f", 1, 4.0, 5.0),
        (1, "b", 1, 5.0, 7.0),
    ]


@settings(max_examples=60, deadline=None)
@given(
    stages=st.integers(1, 6),
    chunks=st.integers(1, 4),
    groups=st.integers(1, 4),
    forward=st.floats(0.1, 2.0),
    backward=st.floats(0.1, 4.0),
    loss=st.floats(0.0, 1.0),
)
def test_a_step_takes_what_the_formula_says_and_every_pass_waits_for_its_own(
    stages: int, chunks: int, groups: int, forward: float, backward: float, loss: float
) -> None:
    microbatches = groups * stages
    pipeline = Pipeline(stages, chunks if stages > 1 else 1, microbatches, forward, backward, loss)
    works = pipeline.works()
    end = max(work.end_s for work in works)
    passes = forward + backward
    assert end == pytest.approx(microbatches * (passes + loss) + (stages - 1) * passes / pipeline.chunks)
    assert set(Counter((w.stage, w.chunk, w.microbatch, w.backward) for w in works).values()) == {1}
    assert len(works) == 2 * stages * pipeline.chunks * microbatches
    when = {(w.stage, w.chunk, w.microbatch, w.backward): (w.begin_s, w.end_s) for w in works}
    for (stage, chunk, microbatch, is_backward), (begin, _) in when.items():
        if is_backward:
            assert begin >= when[stage, chunk, microbatch, False][1]
        if stage > 0 and not is_backward:
            assert begin >= when[stage - 1, chunk, microbatch, False][1]
        if stage < stages - 1 and is_backward:
            assert begin >= when[stage + 1, chunk, microbatch, True][1]
    for one in range(stages):
        mine = [w for w in works if w.stage == one]
        assert all(before.end_s <= after.begin_s for before, after in itertools.pairwise(mine))


@settings(max_examples=60, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 4]),
    context=st.sampled_from([1, 2]),
    data=st.sampled_from([1, 2, 4]),
    stages=st.integers(1, 3),
    expert=st.sampled_from([1, 2, 4]),
)
def test_every_gpu_has_a_place_of_its_own_and_experts_are_split_within_a_stage(
    tensor: int, context: int, data: int, stages: int, expert: int
) -> None:
    of_stage = tensor * context * data
    expert = min(expert, of_stage)
    grid = Grid(tensor, context, data, stages, expert)
    places = [grid.place(rank) for rank in range(grid.gpus)]
    assert len({(p.tensor, p.context, p.data, p.stage) for p in places}) == grid.gpus == of_stage * stages
    held = Counter((p.stage, p.expert) for p in places)
    assert held == {(stage, part): of_stage // expert for stage in range(stages) for part in range(expert)}
    assert [p.tensor for p in places[:tensor]] == list(range(tensor))
