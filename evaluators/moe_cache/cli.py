"""`autotune trace`: record routing traces, look at them, convert them, and generate under a plan that was tuned on one."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from autotune.cli.common import DEFAULT_STORAGE, JsonOption, StorageOption, console, print_json, table
from autotune.errors import UsageError
from autotune.text import number
from evaluators.moe_cache import drift_cli

if TYPE_CHECKING:
    from evaluators.moe_cache.plan_file import PlanFile
    from evaluators.moe_cache.recording.loop import RecordingProgress
    from evaluators.moe_cache.runtime.comparison import Comparison

app = typer.Typer(help="Routing traces of mixture-of-experts models.", no_args_is_help=True)
drift_cli.register(app)

_SAY_EVERY = 32  # tokens between two lines of progress

TraceArgument = Annotated[Path, typer.Argument(help="A trace: .moetrace.npz, route_trace CSV or JSON, also gzipped.")]


@app.command()
def record(
    model: Annotated[
        Path, typer.Option("--model", metavar="DIR", help="Local Hugging Face checkpoint of a MoE model.")
    ],
    text: Annotated[list[Path], typer.Option("--text", metavar="FILE", help="UTF-8 text; one turn each, repeatable.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write, NAME.moetrace.npz.")],
    decode_tokens: Annotated[int, typer.Option(help="Tokens to generate after each text.")] = 128,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Prefill only so many tokens of each text; all if left out.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the sampling; 0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    depths: Annotated[int, typer.Option(help="Layers ahead whose experts to predict and record.")] = 3,
    device: Annotated[str, typer.Option(help="Where to run, as torch names it.")] = "cpu",
    bytes_: Annotated[bool, typer.Option("--bytes", help="Feed UTF-8 bytes instead of the model's tokens.")] = False,
    json_: JsonOption = False,
) -> None:
    """Run a local checkpoint over texts and record which experts its routers choose.

    Example: autotune trace record --model ./OLMoE-1B-7B --text prose.txt --text code.py --out olmoe.moetrace.npz
    """
    from evaluators.moe_cache.formats import SUFFIX, save_trace  # noqa: PLC0415 - the command line loads this module always
    from evaluators.moe_cache.recording.loop import Generation  # noqa: PLC0415
    from evaluators.moe_cache.recording.record import record as run  # noqa: PLC0415

    # Before minutes of generation, not after.
    if not out.name.endswith(SUFFIX):
        raise UsageError(f"--out {str(out)!r} must end in {SUFFIX}")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {str(out)!r}: the folder {str(out.parent)!r} does not exist; create it first")
    trace = run(
        model,
        text,
        Generation(decode_tokens, temperature, seed, depths),
        prompt_tokens=prompt_tokens,
        tokenization="bytes" if bytes_ else "model",
        device=device,
        progress=_say,
    )
    save_trace(trace, out)
    facts = {"trace": str(out), "model": trace.model, "turns": len(trace.turn_names), "tokens": trace.n_tokens}
    if json_:
        print_json({**facts, "layers": trace.n_layers, "experts": trace.n_experts, "top_k": trace.top_k})
        return
    console.print("  ".join(f"{name} {value}" for name, value in facts.items()))
    console.print(f"use it: autotune search moe-cache --set trace={out}", soft_wrap=True)


def _say(progress: RecordingProgress) -> None:
    if progress.token % _SAY_EVERY == 0 or progress.token == progress.decode_tokens:
        where = f"turn {progress.turn + 1}/{progress.turns} ({progress.turn_name})"
        print(f"recording {where}: {progress.token}/{progress.decode_tokens} tokens", file=sys.stderr)


@app.command()
def stats(
    trace: TraceArgument,
    batch: Annotated[int, typer.Option(help="Sequences decoded together, cut out of the generated tokens.")] = 1,
    capacity_factor: Annotated[
        float, typer.Option(help="Share of a batch's tokens that static gating gives every expert room for.")
    ] = 1.0,
    json_: JsonOption = False,
) -> None:
    """Popularity, reuse distance and layer-to-layer affinity of a trace, and what static gating would cost on it."""
    from evaluators.moe_cache.batching import batched, gating_cost, waste_factor  # noqa: PLC0415
    from evaluators.moe_cache.formats import load_trace  # noqa: PLC0415
    from evaluators.moe_cache.stats import summary, trace_stats  # noqa: PLC0415

    loaded = batched(load_trace(trace), batch)
    found = trace_stats(loaded)
    gating = gating_cost(loaded, capacity_factor) if loaded.decode_tokens else None
    if json_:
        print_json(
            {**found.to_dict(), "summary": dict(summary(found)), "gating": None if gating is None else asdict(gating)}
        )
        return
    size = (
        f": {found.n_layers} layers x {found.n_experts} experts, top {found.top_k}; "
        f"{found.n_tokens} tokens ({found.decode_tokens} generated), {found.n_picks} picks"
    )
    console.print(Text.assemble((found.model, "bold"), size))
    console.print("turns: " + ", ".join(found.turn_names))
    rows = [
        [
            str(layer),
            number(float(found.effective_experts[layer])),
            f"{found.hottest_share[layer]:.1%}",
            str(found.first_touches[layer]),
            f"{found.predictability[layer]:.1%}" if layer < len(found.predictability) else "–",
        ]
        for layer in range(found.n_layers)
    ]
    columns = [
        "layer",
        "effective experts",
        f"picks of the {found.top_k} hottest",
        "first touches",
        "next layer predictable",
    ]
    console.print(table(None, columns, rows, right=columns))
    console.print(f"\nmeans over layers (chance of a right prediction: {found.chance:.1%})")
    for name, value in summary(found).items():
        console.print(f"  {name:<22}{value:.4g}")
    if gating is None:
        return
    nominal = waste_factor(found.n_experts, capacity_factor, found.top_k)
    console.print(
        f"\ngating at {gating.batch:.4g} tokens per decode pass, rows computed for each routed one\n"
        f"  dynamic: 1, with {gating.experts_touched:.1%} of the experts\n"
        f"  static, room for {capacity_factor:g} of the tokens: {gating.padding:.4g}, drops {gating.dropped:.1%}; "
        f"E*C/k is {nominal:.4g}\n"
        f"  static, none dropped here: {gating.dropless_padding:.4g}, with room for {gating.dropless_capacity_factor:.3g}",
        soft_wrap=True,
    )


@app.command()
def convert(
    trace: TraceArgument,
    out: Annotated[Path, typer.Argument(help="Where to write, NAME.moetrace.npz.")],
    json_: JsonOption = False,
) -> None:
    """Write a trace in the project's own compressed format."""
    from evaluators.moe_cache.formats import load_trace, save_trace  # noqa: PLC0415

    loaded = load_trace(trace)
    save_trace(loaded, out)
    if json_:
        print_json({"trace": str(out), "model": loaded.model, "tokens": loaded.n_tokens, "bytes": out.stat().st_size})
        return
    console.print(f"wrote {out} ({out.stat().st_size / 2**10:.0f} KiB)")


@app.command()
def cut(
    trace: TraceArgument,
    output: Annotated[
        Path, typer.Option("--output", "--out", "-o", metavar="FILE", help="Where to write, NAME.moetrace.npz.")
    ],
    turns: Annotated[
        str | None, typer.Option(help="Turns to keep, by number from 0 or by name, with commas; all if left out.")
    ] = None,
    phases: Annotated[str | None, typer.Option(help="prefill or decode; both if left out.")] = None,
    decode: Annotated[
        str | None,
        typer.Option(
            metavar="START:STOP", help="Which generated tokens of every turn to keep; the prompt stays with the first."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Keep a part of a trace: some of its turns, or some of the generated tokens of every turn.

    Example: autotune trace cut all.moetrace.npz --turns 0,2 --output part.moetrace.npz
    """
    from evaluators.moe_cache.formats import load_trace, save_trace  # noqa: PLC0415

    loaded = load_trace(trace)
    part = loaded.select(
        None if turns is None else _chosen("--turns", turns, loaded.turn_names),
        None if phases is None else _chosen("--phases", phases, ()),
        None if decode is None else _slice(decode),
    )
    asked = {"turns": turns, "phases": phases, "decode": decode}
    cut_by = {name: value for name, value in asked.items() if value is not None}
    part = replace(part, provenance={**part.provenance, "cut": {**cut_by, "from": trace.name}})
    save_trace(part, output)
    facts = {"trace": str(output), "turns": len(part.turn_names), "tokens": part.n_tokens}
    if json_:
        print_json({**facts, "turn_names": list(part.turn_names), "decode_tokens": part.decode_tokens})
        return
    console.print(
        f"wrote {output}: {part.n_tokens} tokens ({part.decode_tokens} generated) of {', '.join(part.turn_names)}"
    )


def _chosen(option: str, text: str, names: tuple[str, ...]) -> list[int | str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{option} {text!r} has an empty part; write it as 0,2")
    return [int(part) if part not in names and part.isascii() and part.isdigit() else part for part in parts]


def _slice(text: str) -> slice:
    start, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return slice(int(start) if start.strip() else None, int(stop) if stop.strip() else None)
    except ValueError:
        raise UsageError(f"--decode {text!r} is not of the form START:STOP, such as 0:64 or 64:") from None


@app.command()
def generate(
    checkpoint: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Local Hugging Face checkpoint of a MoE model, or the weights of scripts/train_tiny_moe.py.",
        ),
    ],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    study: Annotated[str | None, typer.Option(help="Run the best configuration of this study.")] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run this plan, which autotune export --format plan wrote.")
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    trial: Annotated[int | None, typer.Option(help="Of the study: another configuration than the best.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate, the likeliest each time.")] = 64,
    tier: Annotated[str, typer.Option(help="auto, ram<-disk or gpu<-host.")] = "auto",
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder on the disk to keep experts on; the cache folder if left out."),
    ] = None,
    bytes_: Annotated[bool, typer.Option("--bytes", help="Feed UTF-8 bytes instead of the model's tokens.")] = False,
    compare: Annotated[
        bool, typer.Option(help="Generate without offloading too, which takes the memory of the whole model.")
    ] = True,
    json_: JsonOption = False,
) -> None:
    """Generate text with a checkpoint whose experts are offloaded as a study's best configuration, or a plan, says.

    Example: autotune trace generate --checkpoint ./OLMoE-1B-7B --study demo --prompt "Once upon a time"
    """
    from evaluators.moe_cache.runtime import comparison  # noqa: PLC0415

    given = _plan(study, storage, trial, plan)
    found = comparison.compare(
        checkpoint.expanduser(), given, prompt, tokens, tier=tier, scratch=scratch, as_bytes=bytes_, resident=compare,
        progress=lambda what: print(what, file=sys.stderr, flush=True),
    )  # fmt: skip
    if json_:
        print_json(found.to_dict())
    else:
        _show(found)


def _plan(study: str | None, storage: str, trial: int | None, plan: Path | None) -> PlanFile:
    from evaluators.moe_cache.plan_file import read_plan  # noqa: PLC0415

    if (study is None) == (plan is None) or (plan is not None and trial is not None):
        raise UsageError("give either --study NAME, with --trial N if it is not to be the best, or --plan FILE")
    if plan is not None:
        try:
            return read_plan(plan.expanduser().read_text(encoding="utf-8"), f"--plan {plan}")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--plan {plan} cannot be read ({error}); give a file of autotune export --format plan"
            ) from None
    from autotune.cli.studies import open_for_reading  # noqa: PLC0415

    return read_plan(open_for_reading(study, storage).export("plan", trial).text, f"study {study}")


def _show(found: Comparison) -> None:
    told = found.to_dict()
    console.print(found.text, soft_wrap=True)
    columns = [
        "",
        "tokens/s",
        "ms per token",
        "prefill ms",
        "hit rate",
        "moved MiB per token",
        "experts MiB",
        "weights MiB",
    ]
    keys = ["tokens_per_s", "token_latency_ms", "prefill_ms", "hit_rate", "moved_mib", "experts_mib", "weights_mib"]
    rows = [[name, *(number(told[name].get(key)) for key in keys)] for name in ("offloaded", "resident") if told[name]]
    console.print()
    console.print(table(None, columns, rows, right=columns[1:]))
    if found.resident is not None:
        agree = "the same tokens" if found.parts_at is None else f"the tokens part at token {found.parts_at}"
        console.print(
            f"{agree} as without offloading; logits differ by at most {found.logit_difference:.2g} ({found.tiers})"
        )
