"""`autotune studies`, `show`, `best`, `trials` and `domains`: reading what is kept."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from autotune.cli.common import DEFAULT_STORAGE, JsonOption, StorageOption, StudyArgument, console, print_json, table
from autotune.errors import SearchFailedError, UsageError
from autotune.text import age, number, percent, value_text

if TYPE_CHECKING:
    from autotune.store import Store, StudyRecord, TrialRecord
    from autotune.study import Study


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("show")(show)
    app.command("best")(best)
    app.command("trials")(trials)
    app.command("studies")(studies)
    app.command("domains")(domains)


def open_for_reading(name: str | None, storage: str) -> Study:
    """A study to look at: nothing is written, and its domain need not be installed."""
    from autotune.store import Store  # noqa: PLC0415 - these verbs should start fast
    from autotune.study import Study  # noqa: PLC0415

    store = Store(storage, read_only=True)
    return Study.view(store, named_study(store, name))


def named_study(store: Store, name: str | None) -> StudyRecord:
    """The study of that name; without one the only study, archived ones aside.

    Raises:
        UsageError: where there is no such study, or several.
    """
    if name is not None:
        return store.load_study(name)
    found = store.records()
    names = [study.name for study in found if study.archived_at is None] or [study.name for study in found]
    if len(names) != 1:
        raise UsageError(
            f"{store.url} holds {len(names)} studies; name one: {', '.join(names[:8])}"
            if names
            else f"{store.url} holds no study yet"
        )
    return next(study for study in found if study.name == names[0])


def show(study: StudyArgument = None, storage: StorageOption = DEFAULT_STORAGE, json_: JsonOption = False) -> None:
    """Show a study's result: the best configuration beside the default and the baselines."""
    from autotune.cli.report import explained, print_all, told  # noqa: PLC0415
    from autotune.result import Result  # noqa: PLC0415

    result = Result.of(open_for_reading(study, storage))
    sections = explained(result.study, console)
    if json_:
        print_json(told(result, sections))
        return
    print_all(result, sections, console)


def best(study: StudyArgument = None, storage: StorageOption = DEFAULT_STORAGE, json_: JsonOption = False) -> None:
    """Print the best configuration alone, ready to be used by another program."""
    from autotune.result import Result  # noqa: PLC0415

    result = Result.of(open_for_reading(study, storage))
    found = [result.best] if result.best else list(result.pareto)
    if not found:
        raise SearchFailedError(f"study {result.study.name!r} has no feasible measurement yet")
    if json_:
        print_json([o.to_dict() for o in found] if len(found) > 1 else found[0].to_dict())
        return
    for outcome in found:
        metrics = "  ".join(f"{o.metric} {number(outcome.metrics[o.metric])}" for o in result.study.objectives)
        console.print(Text.assemble((f"trial {outcome.number}", "bold"), f"  {metrics}"))
        width = max(map(len, outcome.config), default=0)
        for name, value in outcome.config.items():
            # All digits: a configuration is copied from here.
            text = value if isinstance(value, str) else json.dumps(value)
            console.print(f"  {name:<{width}}  {text}", soft_wrap=True)


def trials(
    study: StudyArgument = None,
    storage: StorageOption = DEFAULT_STORAGE,
    state: Annotated[str | None, typer.Option("--state", help="completed, failed, pruned, running or waiting.")] = None,
    last: Annotated[int | None, typer.Option("--last", help="Only so many, the newest.")] = None,
    json_: JsonOption = False,
) -> None:
    """List a study's trials."""
    from autotune.store import TrialState  # noqa: PLC0415

    opened = open_for_reading(study, storage)
    rows = list(opened.trials)
    if state is not None:
        if state not in set(TrialState):
            raise UsageError(f"--state {state!r} is unknown; use one of: {', '.join(TrialState)}")
        rows = [t for t in rows if t.state == state]
    if last is not None:
        rows = rows[-last:] if last > 0 else []
    if json_:
        print_json([trial_json(t, opened.record) for t in rows])
        return
    metrics = [o.metric for o in opened.objectives] + [c.metric for c in opened.constraints]
    several = bool(opened.record.fidelities)
    first: dict[tuple[str, str | None], int] = {}
    for t in opened.trials:
        first.setdefault((t.config_hash, t.fidelity), t.number)
    shown = [
        [
            str(t.number),
            t.state.value if t.failure_kind is None else f"failed: {t.failure_kind.value}",
            *([f"{opened.record.evaluator_of(t)}" + ("" if t.counts else " (cheaper)")] if several else []),
            _proposed(t, first[t.config_hash, t.fidelity]),
            *(number(t.values.get(m)) for m in metrics),
            value_text(t.evaluate_s) if t.evaluate_s is not None else "–",
            t.failure_message or "  ".join(f"{k}={value_text(v)}" for k, v in t.config.items()),
        ]
        for t in rows
    ]
    columns = ["trial", "state", *(["evaluator"] if several else []), "proposer", *metrics, "seconds"]
    columns.append("configuration or failure")
    console.print(table(None, columns, shown, right=["trial", *metrics, "seconds"]))


def _proposed(trial: TrialRecord, first: int) -> str:
    again = f", repeats trial {first}" if first != trial.number else ""
    return f"{trial.label or trial.proposer}{again}"


def trial_json(trial: TrialRecord, study: StudyRecord) -> dict[str, Any]:
    """A trial as JSON-able values; `fidelity` names its evaluator in a study of several."""
    return {
        "number": trial.number,
        "state": trial.state.value,
        "label": trial.label,
        "proposer": trial.proposer,
        "fidelity": study.evaluator_of(trial),
        "config": dict(trial.config),
        "metrics": {k: {"value": m.value, "half_width": m.half_width} for k, m in trial.metrics.items()},
        "pruned": {"reason": trial.failure_message, "reported": trial.reported, "step": trial.reported_step}
        if trial.state == "pruned"
        else None,
        "failure": {"kind": trial.failure_kind.value, "message": trial.failure_message} if trial.failure_kind else None,
        "suggest_s": trial.suggest_s,
        "evaluate_s": trial.evaluate_s,
        "attempt": trial.attempt,
        "notes": dict(trial.notes),
        "created_at": trial.created_at,
        "finished_at": trial.finished_at,
    }


def studies(
    storage: StorageOption = DEFAULT_STORAGE,
    archived: Annotated[bool, typer.Option("--archived", help="List those too that were put aside.")] = False,
    json_: JsonOption = False,
) -> None:
    """List the studies of a database, newest first."""
    from autotune.store import Store, TrialState  # noqa: PLC0415
    from autotune.store.queries import standing  # noqa: PLC0415

    store = Store(storage, read_only=True)
    found: list[dict[str, Any]] = []
    hidden = 0
    for summary in store.studies():
        record = summary.study
        if record.archived_at is not None and not archived:
            hidden += 1
            continue
        single = len(record.objectives) == 1
        reached = standing(store, record)
        found.append(
            {
                "study": record.name,
                "domain": record.domain,
                "state": record.state,
                "strategy": record.strategy,
                "trials": sum(summary.trials.values()),
                "failed": summary.trials.get(TrialState.FAILED, 0),
                "pruned": summary.trials.get(TrialState.PRUNED, 0),
                "cheaper": summary.cheaper,
                "objectives": list(record.objectives),
                "best": reached.best if single else None,
                "gain": reached.gain if single else None,
                "front": None if single else reached.front,
                "owner": record.owner,
                "created_at": record.created_at,
                "archived_at": record.archived_at,
            }
        )
    if json_:
        print_json(found)
        return
    if not found:
        empty = f"{storage} holds no study yet; make one with: autotune search moe-cache"
        console.print(f"{storage} holds archived studies alone ({hidden}); see: --archived" if hidden else empty)
        return
    now = dt.datetime.now(dt.UTC)
    ended = any(s["pruned"] for s in found)
    shared = len({s["owner"] for s in found}) > 1
    rows = [
        [
            s["study"],
            s["domain"] or "–",
            s["state"] + (", archived" if s["archived_at"] else ""),
            *([s["owner"] or "–"] if shared else []),
            s["strategy"],
            str(s["trials"]) + (f" + {s['cheaper']} cheaper" if s["cheaper"] else ""),
            str(s["failed"]),
            *([str(s["pruned"])] if ended else []),
            ", ".join(s["objectives"]),
            number(s["best"]),
            percent(s["gain"]),
            age(s["created_at"], now),
        ]
        for s in found
    ]
    columns = ["study", "domain", "state", *(["owner"] if shared else []), "strategy", "trials", "failed"]
    columns += ["pruned"] if ended else []
    columns += ["objective", "best", "gain", "made"]
    console.print(table(None, columns, rows, right=["trials", "failed", "pruned", "best", "gain", "made"]))


def domains(
    name: Annotated[str | None, typer.Argument(help="Show this domain's options.")] = None, json_: JsonOption = False
) -> None:
    """List the installed domains, or one domain's options."""
    from autotune.domain import domain_names, load_domain  # noqa: PLC0415

    if name is None:
        listed = [load_domain(one) for one in domain_names()]
        if json_:
            print_json([{"domain": d.name, "summary": d.summary} for d in listed])
            return
        console.print(table(None, ["domain", "what it tunes"], [[d.name, d.summary] for d in listed]))
        console.print("\noptions of one: autotune domains NAME")
        return
    domain = load_domain(name)
    if json_:
        print_json({"domain": domain.name, "summary": domain.summary, "options": domain.options.model_json_schema()})
        return
    console.print(Text.assemble((domain.name, "bold"), f": {domain.summary}\n"))
    rows = []
    for option, field in domain.options.model_fields.items():
        default = "required" if field.is_required() else value_text(field.default) if field.default is not None else "–"
        rows.append([option, default, field.description or ""])
    console.print(table("options, given as --set NAME=VALUE", ["option", "default", "meaning"], rows))
