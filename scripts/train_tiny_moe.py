"""Train the small mixture-of-experts language model and record the routing trace that ships with the project.

    python scripts/train_tiny_moe.py --seed 0 --out evaluators/moe_cache/traces/tiny-moe.moetrace.npz

Trains on the standard library's own text (see `evaluators.moe_cache.recording.corpus`), prints the loss on held-out
files in bits per byte, then generates from held-out prompts and records what every router chose. `--weights` keeps the
trained weights, or uses those that are there instead of training.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from evaluators.moe_cache.formats import save_trace
from evaluators.moe_cache.recording.corpus import Document, standard_library
from evaluators.moe_cache.recording.loop import Generation, record_turns
from evaluators.moe_cache.recording.tiny_moe import TinyMoE, TinyMoEConfig
from evaluators.moe_cache.recording.tiny_recording import TinyRoutedModel, held_out_prompts, load_tiny, save_tiny
from evaluators.moe_cache.recording.training import Progress, TrainingOptions, held_out_bits_per_byte, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the trace to write, *.moetrace.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=TrainingOptions.steps)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=64, help="bytes per prompt")
    parser.add_argument("--decode", type=int, default=192, help="bytes to generate per turn")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--weights", type=Path, help="keep the trained weights here, or use those that are there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    documents = standard_library()
    model, trained = _model(documents, TrainingOptions(steps=args.steps, seed=args.seed), args.weights)
    print(f"trained in {trained['train_seconds']} s; held-out bits per byte: {trained['held_out_bits_per_byte']}")
    provenance = {
        "command": shlex.join(["python", "scripts/train_tiny_moe.py", *_shown_arguments()]),
        "architecture": asdict(model.config),
        "training": trained,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    generation = Generation(args.decode, temperature=args.temperature, seed=args.seed)
    prompts = held_out_prompts(documents, args.prompt)
    trace = record_turns(TinyRoutedModel(model), prompts, generation, provenance)
    save_trace(trace, args.out)
    print(f"{trace.n_tokens} tokens, {trace.n_picks} picks -> {args.out} ({args.out.stat().st_size} bytes)")


def _shown_arguments() -> list[str]:
    """The command line without `--weights`, a file of this machine alone."""
    kept = sys.argv[1:]
    if "--weights" in kept:
        at = kept.index("--weights")
        del kept[at : at + 2]
    return kept


def _model(
    documents: tuple[Document, ...], options: TrainingOptions, weights: Path | None
) -> tuple[TinyMoE, dict[str, Any]]:
    if weights is not None and weights.exists():
        return load_tiny(weights), torch.load(weights, weights_only=True)["trained"]
    started = time.perf_counter()

    def show(progress: Progress) -> None:
        print(
            f"step {progress.step}/{progress.steps}  {progress.bits_per_byte:.3f} bits/byte  "
            f"balance {progress.balance:.3f}  {time.perf_counter() - started:.0f} s",
            flush=True,
        )

    model = train(documents, TinyMoEConfig(), options, show)
    trained: dict[str, Any] = {
        "options": asdict(options),
        "train_seconds": round(time.perf_counter() - started, 1),
        "held_out_bits_per_byte": {k: round(v, 3) for k, v in held_out_bits_per_byte(model, documents).items()},
    }
    if weights is not None:
        save_tiny(model, weights, trained)
    return model, trained


if __name__ == "__main__":
    main()
