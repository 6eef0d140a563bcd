"""KTransformers: SGLang with kt-kernel, which keeps some experts on the GPU and computes the others on the CPU.

Checked with `doc/en/kt-kernel/experts-sched-Tutorial.md` of kvcache-ai/ktransformers (2026, after v0.6.1) and with what
SGLang's `layers/moe/kt_ep_wrapper.py` makes of its options: the strategy `frequency` puts the ``int(ratio * all experts)``
experts of the highest counts on the GPU, over all layers together. Counts made for the purpose therefore place any set of
experts exactly, a different number in each layer included.
"""

from __future__ import annotations

import io
import re

import numpy as np

from autotune.errors import UsageError
from autotune.exporting import Exported, NoOptions
from autotune.space import Config
from evaluators.engines.arguments import commented
from evaluators.moe_cache.exporters.subject import Subject, losses
from evaluators.moe_cache.plan import Ints
from evaluators.moe_cache.profiled import plan_of

NAME = "ktransformers"
SUMMARY = "SGLang with kt-kernel: which experts are on the GPU, the others on the CPU"


def write(config: Config, subject: Subject, options: NoOptions, stem: str) -> Exported:
    """Arguments for ``python -m sglang.launch_server``, and the counts by which it places the experts."""
    del options
    plan = plan_of(config)
    held = subject.whole_experts(plan)
    dense = subject.model.dense_layers
    if tuple(sorted(dense)) != tuple(range(len(dense))):
        raise UsageError(
            f"format {NAME!r}: model {subject.model.name} has dense layers {list(dense)}, and KTransformers knows them only "
            "before all others; export it for llama.cpp"
        )
    fixed = "experts do not come and go; as many as each layer's budget holds are placed, the most popular in the trace first"
    cannot = (
        *losses(
            plan,
            subject,
            policy={"dynamic": fixed},
            split=f"whole experts are placed instead, {int(held.sum())} in all",
            prefetch="nothing is moved while it runs, so there is nothing to fetch ahead",
            cpu="every expert that is not on the GPU is computed on the CPU, whatever its tokens",
        ),
        "missing experts: they are computed on the CPU and never loaded, so the tuned latency is not the one to expect",
    )
    chosen, total = int(held.sum()), subject.n_layers * subject.n_experts
    # The engine cuts ratio * total down to a whole number; half an expert more keeps rounding from taking one away.
    ratio = 1.0 if chosen == total else (chosen + 0.5) / total if chosen else 0.0
    # A shell would split the argument at a blank and expand patterns in it.
    counts = re.sub(r"[^\w.-]", "_", stem) + ".experts.pt"
    text = commented(
        f"KTransformers: {chosen} of {total} experts on the GPU, by layer: {', '.join(map(str, held.tolist()))}",
        (
            "python -m sglang.launch_server --model MODEL --kt-weight-path WEIGHTS ... $(grep -v '^#' THIS_FILE)",
            f"{counts} must lie where the server is started; its counts are ranks that give this placement.",
        ),
        cannot,
        (
            f"--kt-gpu-experts-ratio {ratio:.9f}",
            "--kt-expert-placement-strategy frequency",
            f"--init-expert-location {counts}",
        ),
    )
    return Exported(text, ".args", cannot, {counts: _saved(placing_counts(subject, held))})


def placing_counts(subject: Subject, held: Ints) -> Ints:
    """``(decoder layers, N)`` counts whose highest, over all layers, are the `held` most popular experts of each layer.

    Within a layer they fall with popularity; layers without experts have none.
    """
    n = subject.n_experts
    counts = np.zeros((subject.model.n_decoder_layers, n), dtype=np.int64)
    for layer, index in enumerate(subject.decoder_layers):
        rank = np.arange(n, 0, -1)
        counts[index, subject.order[layer]] = rank + np.where(np.arange(n) < held[layer], 2 * n, 0)
    return counts


def _saved(counts: Ints) -> bytes:
    """As SGLang's recorder of the expert distribution writes them: ``logical_count``, one step of all layers."""
    import torch  # noqa: PLC0415 - takes seconds, and other formats do not need it

    buffer = io.BytesIO()
    torch.save({"logical_count": torch.from_numpy(counts)[None]}, buffer)
    return buffer.getvalue()
