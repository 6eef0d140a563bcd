"""`autotune search`: the main job."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from autotune.cli.common import (
    DEFAULT_STORAGE,
    INTERRUPTED,
    JsonOption,
    StorageOption,
    command_line,
    make_console,
    print_json,
    program,
    settings,
    share,
)
from autotune.errors import SearchFailedError, UsageError
from autotune.interrupts import held

if TYPE_CHECKING:
    from autotune.command import CommandSpec
    from autotune.execution import Runner
    from autotune.result import Result

EXAMPLES = """
[bold]Examples[/bold]

  autotune search moe-cache

  autotune search moe-cache --set trace=my.moetrace.npz --trials 100

  autotune search moe-cache --target 'token_latency_ms <= 10' --min-gain 0.1%

  autotune search DOMAIN --evaluator profiled,real    (cheap ones first; the last one's results count)

  autotune search space.yaml -- ./bench --tile {tile}

  autotune search --study NAME    (goes on with a study, as 'autotune resume NAME' does)

  autotune search moe-cache --study new-gpu --strategy bo --transfer-from old-gpu

  autotune search moe-cache --strategy bo --strategy-option acquisition=logei

  autotune search DOMAIN --pruner median    (ends trials that fall behind, where the evaluator reports)
"""


@dataclass(frozen=True)
class Request:
    """What to search, from whichever of the ways it was given in: a domain, a file, or a study that is gone on with."""

    arguments: dict[str, Any]
    study: str
    runner: Runner | None = None


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("search", epilog=EXAMPLES)(search)


def search(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="DOMAIN | SPACE.yaml", help="An installed domain, or a file that describes a command to tune."
        ),
    ] = None,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND", help="The command to tune.")] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    study: Annotated[
        str | None, typer.Option("--study", help="Name of the study; one that exists is gone on with.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="Trials in the study when it is done (60).", show_default=False)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Stop asking after so long.")
    ] = None,
    target_: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="'METRIC <= X'", help="Stop when the best is this good; repeatable."),
    ] = None,
    min_gain: Annotated[
        str | None,
        typer.Option(
            "--min-gain", metavar="SHARE", help="Stop when the strategy expects less of a trial, such as 0.1%."
        ),
    ] = None,
    min_gain_per_hour: Annotated[
        str | None,
        typer.Option("--min-gain-per-hour", metavar="SHARE", help="Stop when it expects less of an hour, such as 1%."),
    ] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="Search algorithm; 'auto' chooses.")] = None,
    strategy_option: Annotated[
        list[str] | None,
        typer.Option("--strategy-option", metavar="NAME=VALUE", help="An option of the strategy; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the search (0).", show_default=False)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of the domain; see 'autotune domains NAME'."),
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            "--evaluator",
            metavar="NAME[,NAME]",
            help="Which of the domain's evaluators measures; several from the cheapest to the one that counts.",
        ),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", metavar="'minimize METRIC'", help="Instead of the domain's own; repeatable."),
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option("--constraint", metavar="'METRIC <= X'", help="Limit on a measured metric; repeatable."),
    ] = None,
    transfer_from: Annotated[
        list[str] | None,
        typer.Option("--transfer-from", metavar="STUDY | URL#STUDY", help="Learn from an earlier study; repeatable."),
    ] = None,
    no_transfer: Annotated[
        bool, typer.Option("--no-transfer", help="Go on without the studies that this one learned from.")
    ] = False,
    no_predictor: Annotated[
        bool, typer.Option("--no-predictor", help="Search without the domain's own predictions.")
    ] = False,
    pruner: Annotated[
        str | None,
        typer.Option("--pruner", help="What ends trials early: none, bound, median, asha or race.", show_default=False),
    ] = None,
    pruner_option: Annotated[
        list[str] | None,
        typer.Option("--pruner-option", metavar="NAME=VALUE", help="An option of the pruner; repeatable."),
    ] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="Run every evaluation in a process of its own.")] = False,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", metavar="SECONDS", help="Of one evaluation; isolates.")
    ] = None,
    memory_limit: Annotated[
        float | None, typer.Option("--memory-limit", metavar="GIB", help="Of one evaluation; isolates.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Search for the best configuration of a domain, or of any command."""
    given = settings(set_ or [])
    if target is not None and _is_file(target):
        if given or evaluator is not None:
            wrong = "--set" if given else "--evaluator"
            raise UsageError(f"{wrong} is for domains; {target} says itself what is tuned and how it is measured")
        overrides = {"objectives": objective, "outcome_constraints": constraint}
        request = _command_request(Path(target), command or [], study, {k: v for k, v in overrides.items() if v})
        objective = constraint = None  # the command's evaluator had to know them
    else:
        if command:
            raise UsageError("a command after '--' needs a SPACE.yaml before it that describes its parameters")
        request = _domain_request(target, study, storage, given, _names(evaluator))
    arguments = request.arguments
    for name, value in (
        ("trials", trials),
        ("timeout_s", timeout),
        ("target", target_),
        ("min_gain", share("--min-gain", min_gain)),
        ("min_gain_per_hour", share("--min-gain-per-hour", min_gain_per_hour)),
        ("strategy", strategy),
        ("strategy_options", settings(strategy_option, "--strategy-option") if strategy_option else None),
        ("pruner", pruner),
        ("pruner_options", settings(pruner_option, "--pruner-option") if pruner_option else None),
        ("predictor", False if no_predictor else None),
        ("transfer_from", _sources(transfer_from or [], none=no_transfer)),
        ("seed", seed),
        ("objectives", objective),
        ("constraints", constraint),
    ):
        if value is not None:
            arguments[name] = value
    if isolate or time_limit is not None or memory_limit is not None:
        request = replace(request, runner=_isolated(arguments, time_limit, memory_limit))
    run(request, storage, json_=json_, typed=context.obj)


def _sources(named: list[str], *, none: bool) -> list[str] | None:
    """None where the study's own stand, nothing where it shall go on without."""
    if named and none:
        raise UsageError(f"--no-transfer and --transfer-from {named[0]} contradict each other; give one of them")
    return named if named or none else None


def _names(evaluator: str | None) -> str | list[str] | None:
    names = evaluator.split(",") if evaluator is not None else []
    return [name.strip() for name in names] if len(names) > 1 else evaluator


def _is_file(target: str) -> bool:
    return Path(target).suffix.lower() in (".yaml", ".yml") or ("/" in target)


def _command_request(path: Path, command: list[str], study: str | None, overrides: dict[str, Any]) -> Request:
    from autotune.command import load_spec  # noqa: PLC0415 - each way imports what it needs

    spec = load_spec(path, command or None, overrides)
    return _of_command(spec, study if study is not None else spec.name or path.stem, str(path))


def _of_command(spec: CommandSpec, study: str, where: str) -> Request:
    from autotune.command import CommandEvaluator  # noqa: PLC0415
    from autotune.execution import InProcess  # noqa: PLC0415
    from autotune.objective import parse_objectives  # noqa: PLC0415

    space = spec.space()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        evaluate = CommandEvaluator(spec)
    for warning in said:
        print(f"autotune: {where}: {warning.message}", file=sys.stderr)
    arguments: dict[str, Any] = {
        "space": space,
        "evaluate": evaluate,
        "objectives": spec.objectives,
        "constraints": spec.outcome_constraints,
        "default": spec.default_config(space),
        "trials": spec.trials,
        # What the file leaves open stays as it was where a study is gone on with.
        **{name: getattr(spec, name) for name in ("strategy", "seed") if name in spec.model_fields_set},
    }
    names = [o.metric for o in parse_objectives(spec.objectives)]
    return Request(arguments, study, InProcess(names, spec.protocol()))


def _domain_request(
    target: str | None, study: str | None, storage: str, given: dict[str, str], evaluator: str | list[str] | None
) -> Request:
    if target is None:
        if study is None:
            raise UsageError(
                "nothing to search: name a domain (see 'autotune domains') or a SPACE.yaml, or a --study to go on with"
            )
        request = stored_request(study, storage)
        if given or evaluator:
            if not isinstance(request.arguments["space"], str):
                wrong = "--set" if given else "--evaluator"
                raise UsageError(f"{wrong} is for domains; study {study!r} was made from a command")
            request.arguments["options"] = {**request.arguments["options"], **given}
            request.arguments["evaluator"] = evaluator or request.arguments["evaluator"]
        return request
    return Request({"space": target, "options": given, "evaluator": evaluator}, target if study is None else study)


def stored_request(study: str | None, storage: str) -> Request:
    """What goes on with a study, made of what its database holds alone; the only study where none is named.

    Raises:
        UsageError: where the study was measured, or proposed, by what a database cannot hold.
    """
    from autotune.cli.studies import named_study  # noqa: PLC0415
    from autotune.execution import InProcess, Isolated  # noqa: PLC0415
    from autotune.execution.runner import COMMAND, ISOLATED, REPEATS  # noqa: PLC0415
    from autotune.measurement import ONCE, Protocol  # noqa: PLC0415
    from autotune.store import Store  # noqa: PLC0415
    from autotune.strategies import STRATEGIES  # noqa: PLC0415

    with closing(Store(storage, create=False)) as store:
        record = named_study(store, study)
    kept = record.options
    if record.strategy not in STRATEGIES:
        raise UsageError(
            f"study {record.name!r} was made with the strategy {record.strategy!r}, which is none that can be found by its "
            "name; go on with it from the program that made it"
        )
    # What ends the search is kept by the names of the arguments.
    arguments: dict[str, Any] = {**record.budget}
    if record.domain is None:
        if COMMAND not in kept:
            raise UsageError(
                f"study {record.name!r} was measured by a Python function, which a database cannot hold; go on with it "
                "from the program that made it"
            )
        from autotune.command import CommandSpec  # noqa: PLC0415

        request = _of_command(CommandSpec.stored(kept[COMMAND]), record.name, f"study {record.name!r}")
        for ours in ("trials", "strategy", "seed"):  # which the study knows better than its file
            request.arguments.pop(ours, None)
        return replace(request, arguments={**request.arguments, **arguments})
    arguments |= {
        "space": record.domain,
        "options": dict(kept.get("domain_options", {})),
        "evaluator": list(record.fidelities) or kept.get("evaluator"),
        "objectives": list(record.objectives),
        "constraints": list(record.constraints),
        "costs": kept.get("costs"),
    }
    metrics = [o.metric for o in record.goals.objectives]
    protocol = Protocol(**kept.get(REPEATS, asdict(ONCE)))
    runner = Isolated(metrics, protocol, **kept[ISOLATED]) if ISOLATED in kept else InProcess(metrics, protocol)
    return Request(arguments, record.name, runner)


def _isolated(arguments: dict[str, Any], time_limit: float | None, memory_limit: float | None) -> Runner:
    from autotune.execution import Isolated  # noqa: PLC0415
    from autotune.loop import domain_problem  # noqa: PLC0415
    from autotune.objective import parse_objectives  # noqa: PLC0415

    if not isinstance(arguments["space"], str):
        raise UsageError(
            "--isolate, --time-limit and --memory-limit are for domains; a command has timeout_s in its YAML file"
        )
    goals = arguments.get("objectives") or domain_problem(arguments["space"], arguments["options"]).objectives
    return Isolated([o.metric for o in parse_objectives(goals)], time_limit_s=time_limit, memory_limit_gib=memory_limit)


@contextmanager
def _predictor_told() -> Iterator[None]:
    """What is wrong with a predictor as one line below the table of trials, instead of a warning in its midst."""
    from autotune.predictors import PredictorWarning  # noqa: PLC0415

    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", PredictorWarning)
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, PredictorWarning):
                said.append(str(message))
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        try:
            yield
        finally:
            for text in said:
                print(f"autotune: {text}", file=sys.stderr)


def run(request: Request, storage: str, *, json_: bool, typed: Sequence[str]) -> None:
    """Search, showing how far it is, and print the result.

    Args:
        typed: the words of the command line, to be told again where the search is interrupted.

    Raises:
        SearchFailedError: when nothing feasible was measured.
    """
    arguments, study = dict(request.arguments), request.study
    with held():  # an import that is broken off may go on without its part
        from autotune.cli.live import ProgressView  # noqa: PLC0415
        from autotune.cli.report import explained, print_all, told  # noqa: PLC0415
        from autotune.loop import search as run_search  # noqa: PLC0415

    # With --json standard output belongs to the JSON object alone.
    console = make_console(stderr=json_)
    quiet = json_ and not sys.stderr.isatty()
    view = ProgressView(console, arguments.get("trials"))
    try:
        with _predictor_told(), view:
            result: Result = run_search(
                arguments.pop("space"),
                **arguments,
                storage=storage,
                study=study,
                runner=request.runner,
                callback=None if quiet else view.show,
            )
    except KeyboardInterrupt:
        # The same command, as a file's study cannot be made from its name, and no study may have been made yet.
        again = shlex.join([*program(), *typed])
        print(f"\nautotune: interrupted; every finished trial is kept. Go on with: {again}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    sections = explained(result.study, console)
    if json_:
        print_json(told(result, sections))
    else:
        print_all(result, sections, console)
        console.print(f"\nsee it again: {command_line('show', study, storage=storage)}", soft_wrap=True)
        console.print(f"in a browser: {command_line('dashboard', storage=storage)}", soft_wrap=True)
    if result.best is None and not result.pareto:
        raise SearchFailedError(
            f"study {study!r} has no feasible measurement; see: {command_line('trials', study, storage=storage)}"
        )
