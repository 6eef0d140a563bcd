"""`autotune trace`: record routing traces, look at them, convert them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from autotune.cli.common import JsonOption, console, print_json, table
from autotune.errors import UsageError
from autotune.text import number

if TYPE_CHECKING:
    from evaluators.moe_cache.recording.loop import RecordingProgress

app = typer.Typer(help="Routing traces of mixture-of-experts models.", no_args_is_help=True)

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
