"""`autotune trace drift` and `replan`: whether routing has changed, and what that asks of a tuned configuration."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from autotune.cli.common import (
    DEFAULT_STORAGE,
    JsonOption,
    StorageOption,
    StudyArgument,
    console,
    print_json,
    share,
    table,
)
from autotune.cli.studies import open_for_reading
from autotune.errors import UsageError
from autotune.text import number, value_text

if TYPE_CHECKING:
    from autotune.store import TrialRecord
    from autotune.study import Study
    from evaluators.moe_cache.drift import Drift
    from evaluators.moe_cache.replan import LayerChange, Replan
    from evaluators.moe_cache.workload import Workload

_LAYERS_TOLD = 4  # of those that drifted most
_COMPARED = "token_latency_ms"

AlphaOption = Annotated[float, typer.Option(help="Accepted share of false alarms of drift.")]
BlockOption = Annotated[
    int | None,
    typer.Option(
        "--block-tokens",
        metavar="N",
        help="Tokens that are dealt out together; found out if left out. Beyond the longest turn: whole turns.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("drift")(compare)
    app.command("replan")(replan)


def compare(
    before: Annotated[Path, typer.Argument(help="A trace.")],
    after: Annotated[Path, typer.Argument(help="Another of the same model.")],
    alpha: AlphaOption = 0.05,
    block_tokens: BlockOption = None,
    json_: JsonOption = False,
) -> None:
    """Tell whether two traces of a model are of the same routing, and which layers differ most."""
    from evaluators.moe_cache.drift import drift  # noqa: PLC0415 - the command line loads this module always
    from evaluators.moe_cache.formats import load_trace  # noqa: PLC0415

    found = drift(load_trace(before), load_trace(after), alpha=alpha, block_tokens=block_tokens)
    if json_:
        print_json(found.to_dict())
        return
    _print_drift(found)
    columns = ["layer", "divergence, bits", "beyond chance", "p", "reuse before", "reuse after"]
    rows = [
        [
            str(layer),
            f"{found.layer_divergence_bits[layer]:.4f}",
            f"{found.layer_excess_bits[layer]:+.4f}",
            f"{found.layer_p[layer]:.4f}",
            f"{found.layer_reuse_before[layer]:.1%}",
            f"{found.layer_reuse_after[layer]:.1%}",
        ]
        for layer in found.most.tolist()
    ]
    console.print(table(None, columns, rows, right=columns))


def replan(
    study: StudyArgument = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Routing of the same model as it is now.")
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    trial: Annotated[
        int | None, typer.Option("--trial", help="The trial whose configuration is in use; the best if left out.")
    ] = None,
    tuned_on: Annotated[
        Path | None,
        typer.Option(
            "--tuned-on", metavar="FILE", help="The trace that the study was searched on, where it has moved."
        ),
    ] = None,
    threshold: Annotated[str, typer.Option(help="Least gain that is worth another configuration.")] = "2%",
    starts: Annotated[int, typer.Option(help="Settings of policy and prefetching to run fixed-point for.")] = 4,
    alpha: AlphaOption = 0.05,
    block_tokens: BlockOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", "-o", metavar="FILE", help="Write the new configuration, as plan JSON."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Ask whether a study's configuration still fits the routing: what it costs now, what would be better, what changes.

    Nothing is measured: the study's stored hardware profile and the profiled evaluator are used.

    Example: autotune trace replan demo --trace today.moetrace.npz --output plan.json
    """
    from evaluators.moe_cache.drift import drift  # noqa: PLC0415
    from evaluators.moe_cache.replan import replan as plan_anew  # noqa: PLC0415

    if trace is None:
        raise UsageError("--trace is missing; give a trace of the routing as it is now")
    if output is not None and not output.absolute().parent.is_dir():  # before a minute of work, not after
        raise UsageError(f"--output {str(output)!r}: the folder {str(output.parent)!r} does not exist; create it first")
    least = share("--threshold", threshold) or 0.0
    asked = _Asked.of(open_for_reading(study, storage), trial, trace, tuned_on)
    found = plan_anew(
        asked.before,
        asked.after,
        dict(asked.trial.config),
        threshold=least,
        starts=starts,
        found_drift=drift(asked.before.routing, asked.after.routing, alpha=alpha, block_tokens=block_tokens),
    )
    if output is not None:
        _write(output, found, asked.after)
    others = [str(goal) for goal in asked.study.objectives if goal.metric != _COMPARED]
    others += [str(limit) for limit in asked.study.constraints]
    if others:
        print(f"autotune: the study asks for more than is compared here: {'; '.join(others)}", file=sys.stderr)
    if json_:
        about = {"study": asked.study.name, "trial": asked.trial.number, "trace": str(trace)}
        print_json({**about, **found.to_dict(), "output": None if output is None else str(output)})
        return
    _print_replan(found, asked)
    if output is not None:
        console.print(f"\nwrote the new configuration to {output}", soft_wrap=True)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A study's trial, and its routing before and after."""

    study: Study
    trial: TrialRecord
    before: Workload
    after: Workload

    @classmethod
    def of(cls, study: Study, number: int | None, trace: Path, tuned_on: Path | None) -> _Asked:
        from autotune.domain import load_domain  # noqa: PLC0415
        from autotune.exporting import chosen  # noqa: PLC0415
        from autotune.options import parse_options  # noqa: PLC0415
        from evaluators.moe_cache.formats import load_trace  # noqa: PLC0415
        from evaluators.moe_cache.workload import HasWorkload  # noqa: PLC0415

        record = study.record
        domain: object = None if record.domain is None else load_domain(record.domain)
        if not isinstance(domain, HasWorkload):
            whose = "has no domain" if record.domain is None else f"is of the domain {record.domain}"
            raise UsageError(f"study {study.name!r} {whose}, which has no routing; give a study of moe-cache")
        if record.profile_id is None:
            raise UsageError(f"study {study.name!r} has no hardware profile stored; search again to make one that has")
        trial = chosen(study, number)
        now = load_trace(trace)
        given = dict(record.options.get("domain_options", {}))
        if tuned_on is not None:
            given["trace"] = str(tuned_on)
        profile = study.store.profile(record.profile_id).payload
        try:
            before = domain.workload(parse_options(domain.options, given), profile)
        except UsageError as error:
            gone = tuned_on is None and "trace" in given and not Path(given["trace"]).expanduser().exists()
            hint = "; if the study's trace has moved, name it with --tuned-on FILE" if gone else ""
            raise UsageError(f"study {study.name!r}: {error}{hint}") from None
        return cls(study, trial, before, before.on(now))


def _write(path: Path, found: Replan, workload: Workload) -> None:
    from autotune.exporting import NoOptions  # noqa: PLC0415
    from evaluators.moe_cache.exporters import plan_json  # noqa: PLC0415

    text = plan_json.write(dict(found.found), workload.subject, NoOptions(), path.stem).text
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--output {str(path)!r} cannot be written: {error.strerror or error}; name another file"
        ) from None


# ------------------------------------------------------------------------------------------------------------ as text


def _print_drift(found: Drift) -> None:
    verdict = {
        True: f"drifted (p = {number(found.p)})",
        False: f"no drift to be seen (p = {number(found.p)})",
        None: f"too short to tell drift at {found.alpha:.3g} false alarms",
    }[found.drifted]
    blocks = f"{found.blocks[0]} and {found.blocks[1]} blocks of about {found.block_tokens} tokens"
    console.print(Text.assemble("routing: ", (verdict, "bold"), f"; {blocks}"))
    console.print(
        f"popularity differs by {found.divergence_bits:.4f} bits of Jensen-Shannon divergence, {found.excess_bits:+.4f} beyond "
        f"chance (p = {number(found.popularity_p)}); reuse of the last token's experts {found.layer_reuse_before.mean():.1%} "
        f"and {found.layer_reuse_after.mean():.1%} (p = {number(found.reuse_p)})",
        soft_wrap=True,
    )
    most = ", ".join(f"{layer} ({found.layer_excess_bits[layer]:+.3f})" for layer in found.most[:_LAYERS_TOLD].tolist())
    console.print(f"layers that differ most, bits beyond chance: {most}")


def _print_replan(found: Replan, asked: _Asked) -> None:
    _print_drift(found.drift)
    saved = found.present_ms - found.found_ms
    console.print(f"\npresent configuration (trial {asked.trial.number} of {asked.study.name}), ms per token")
    console.print(f"  on the routing that it was tuned on  {number(found.tuned_ms)}")
    console.print(f"  on the new routing                   {number(found.present_ms)}")
    console.print(f"fixed-point finds for the new routing  {number(found.found_ms)}  by {found.found_by}")
    console.print(f"  saves, in hindsight                  {number(saved)}  {found.gain:.1%}")
    held_out = "too few tokens to tell" if found.held_out_gain is None else f"{found.held_out_gain:.1%}"
    console.print(f"  saves, on tokens not planned on      {held_out}")
    judged = "in hindsight" if found.held_out_gain is None else "on tokens not planned on"
    side = "at least" if found.changed else "below"
    console.print(
        Text.assemble(
            "\nrecommendation: ",
            ("change the configuration" if found.changed else "keep the present configuration", "bold"),
            f"; what a change saves {judged} is {side} {100 * found.threshold:.3g} % of the latency",
        ),
        soft_wrap=True,
    )
    changed = [layer for layer in found.layers if layer.changes]
    if not changed and not found.settings:
        console.print("\nnothing better was found: nothing would change")
        return
    console.print("\nwhat changes" if found.changed else "\nwhat would change")
    for name, (before, after) in found.settings.items():
        console.print(f"  {name}: {value_text(before)} -> {value_text(after)}")
    if changed:
        _print_layers(changed)
    console.print(f"{len(changed)} of {len(found.layers)} layers change")


def _print_layers(changed: list[LayerChange]) -> None:
    columns = ["layer", "slots", "theta", "budget, MiB", "experts placed anew"]
    placed = any(layer.placed_anew is not None for layer in changed)
    rows = [
        [
            str(layer.layer),
            f"{layer.slots_before} -> {layer.slots_after}",
            f"{layer.theta_before:.4g} -> {layer.theta_after:.4g}",
            f"{number(layer.budget_mib_before)} -> {number(layer.budget_mib_after)}",
            *([str(layer.placed_anew)] if placed else []),
        ]
        for layer in changed
    ]
    shown = columns if placed else columns[:-1]
    console.print(table(None, shown, rows, right=shown))
