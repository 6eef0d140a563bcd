"""Domain `compression`: what devices that train together send each other, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from autotune.domain import Problem
from autotune.errors import UsageError
from autotune.explaining import Section
from autotune.exporting import Exporter
from autotune.space import SearchSpace
from autotune.store.records import TrialRecord
from autotune.viewing import View
from evaluators.choices import as_text, read_settings
from evaluators.federated import tasks
from evaluators.federated.baselines import BASELINES, UNCOMPRESSED, Caesar
from evaluators.federated.compute_profile import profile_of
from evaluators.federated.explain import explain
from evaluators.federated.exporters import Subject, exporters
from evaluators.federated.fleet import Fleet, fleet, read_fleet
from evaluators.federated.job import Job
from evaluators.federated.knobs import (
    CHOICES,
    config_of,
    default_of,
    fixed_of,
    meaningful,
    plain,
    refuse_idle,
    space_of,
    usual_texts,
)
from evaluators.federated.prediction import KNOWN, Prediction
from evaluators.federated.settings import Settings
from evaluators.federated.starts import Starts
from evaluators.federated.trained import COSTS, METRICS, Trained

# Options that only some tasks take, and what tasks call them.
_TASK_OPTIONS = {"data": "path", "model": "model", "hidden": "hidden"}
_DROP_POINTS = 0.7  # of final accuracy that compression may cost; what Caesar's authors report of theirs is 0.68


class JobOptions(BaseModel):
    """What a user may set of the job with ``--set NAME=VALUE``; settings of `CHOICES` come on top."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Annotated[str, Field(description=f"what is trained: {', '.join(tasks.TASKS)}")] = "digits"
    data: Annotated[
        str | None, Field(description="your own data, for tasks that take some: an .npz file, a text file or a folder")
    ] = None
    model: Annotated[
        str | None, Field(description="folder of a local Hugging Face checkpoint, for the task that takes it")
    ] = None
    hidden: Annotated[
        int | None, Field(ge=1, le=65_536, description="width of the hidden layer, for digits and table")
    ] = None
    devices: Annotated[int, Field(ge=1, le=100_000, description="that have data")] = 40
    fleet: Annotated[
        str,
        Field(
            description="classes of devices with their shares (phones:1,jetsons:2), or a .csv or .json file of devices"
        ),
    ] = "phones:1,jetsons:2"
    participation: Annotated[float, Field(gt=0, le=1, description="share of the devices that take part in a round")] = (
        0.25
    )
    dropout: Annotated[float, Field(ge=0, lt=1, description="probability that a device is lost in a round")] = 0.05
    alpha: Annotated[
        float,
        Field(gt=0, description="of the Dirichlet partition: small for devices with data unlike others', inf for like"),
    ] = 0.5
    rounds: Annotated[int, Field(ge=1, le=100_000, description="that every configuration is trained for")] = 100
    target_accuracy: Annotated[
        float | None, Field(gt=0, le=1, description="that costs are counted up to; the task's own if left out")
    ] = None
    accuracy_drop: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False, description="points of final accuracy that compression may cost"),
    ] = _DROP_POINTS
    evaluate_every: Annotated[int, Field(ge=1, description="rounds from one look at the test data to the next")] = 1
    repeats: Annotated[
        int, Field(ge=1, le=100, description="runs of a configuration, with other luck, that are averaged")
    ] = 3
    chance: Annotated[int, Field(ge=0, description="seed of partitions, links, failures and batches")] = 0


_Values = Annotated[str | None, BeforeValidator(as_text)]

Options = create_model(
    "Options",
    __base__=JobOptions,
    **{
        name: (_Values, Field(default=None, description=f"{choice.told}; several values, by commas, are searched over"))
        for name, choice in CHOICES.items()
    },  # type: ignore[call-overload]
)


class Compression:
    """The domain; see `docs/compression.md`."""

    name = "compression"
    summary = "federated training over slow links: compressors, ratios up and down by device, local steps, batches"
    options = Options

    def problem(self, options: Any) -> Problem:
        """Lay out the search.

        Raises:
            UsageError: for a task, devices or settings that cannot be used.
        """
        task = _task(options)
        settings = _settings(options, task)
        space = space_of(settings)
        job = _job(options, task, settings)
        default = default_of(settings, space)
        evaluator = Trained(job)
        prediction = Prediction(job, lambda: evaluator.reference)
        _ = job.worlds  # a device without samples is told before anything is trained
        return Problem(
            space=space,
            objectives=("minimize traffic_mib",),
            constraints=(f"accuracy_drop_points <= {options.accuracy_drop:g}",),
            default=default,
            baselines={
                name: config
                for name, wanted in BASELINES.items()
                if (config := _exactly(settings, space, wanted)) is not None and config != default
            },
            evaluators={"trained": evaluator},
            metrics=METRICS,
            accumulating=COSTS,
            progress="maximize accuracy",
            pruner="race",
            highlights=("final_accuracy", "accuracy_drop_points", "time_s", "rounds", "idle_share"),
            domain_map=_map(settings, space, prediction, options.accuracy_drop),
            predictor=prediction,
            facts=_facts(job, options),
        )

    def exporters(self, options: Any) -> dict[str, Exporter]:
        """How a configuration communicates, for programs that train; the task is not loaded."""
        # Settings whose usual values depend on the task are searched over unless the user sets them.
        settings = read_settings(CHOICES, {**usual_texts(learning_rate=1.0, batch=2, local_steps=1), **_given(options)})
        subject = Subject(
            task=options.task,
            devices=options.devices,
            fleet=options.fleet,
            participation=options.participation,
            dropout=options.dropout,
            alpha=options.alpha,
            rounds=options.rounds,
            target=options.target_accuracy,
            fixed=fixed_of(settings),
        )
        return exporters(subject)

    def explain(self, trials: Mapping[str, TrialRecord], *, unicode: bool) -> tuple[Section, ...]:
        """Where traffic and time go, by class of device, and how accuracy grows with them."""
        return explain(trials, unicode=unicode)

    def views(self) -> Mapping[str, View]:
        """Pictures; they need the extra `plots`, which a search does not."""
        from evaluators.federated.views import VIEWS  # noqa: PLC0415

        return VIEWS


def _task(options: Any) -> tasks.Task:
    """The task, given what it takes of the options that only some tasks take."""
    given = {name: value for name in _TASK_OPTIONS if (value := getattr(options, name)) is not None}
    kind = tasks.TASKS.get(options.task)
    takes = {name for name, argument in _TASK_OPTIONS.items() if kind and argument in kind.options}
    for name, value in given.items() if kind else ():
        if name not in takes:
            able = ", ".join(other for other, its in tasks.TASKS.items() if _TASK_OPTIONS[name] in its.options)
            raise UsageError(
                f"task {options.task} takes no {name}, which is {value!r}; leave it out, or set task to: {able}"
            )
    for name in takes:
        needed = kind is not None and kind.options[_TASK_OPTIONS[name]].default is Parameter.empty
        if needed and name not in given:
            raise UsageError(f"task {options.task} needs {name}, which is not given; say --set {name}=PATH")
    return tasks.load(options.task, **{_TASK_OPTIONS[name]: value for name, value in given.items()})


def _given(options: Any) -> dict[str, str]:
    """Settings that the user named, as text."""
    return {name: text for name in CHOICES if (text := getattr(options, name)) is not None}


def _settings(options: Any, task: tasks.Task) -> dict[str, tuple[Any, ...]]:
    """All settings with their values, the user's or the usual ones.

    Raises:
        UsageError: for a value that a setting does not have, and a setting that means nothing beside the others.
    """
    usual = usual_texts(task.learning_rate, task.batch, task.local_steps)
    given = _given(options)
    settings = read_settings(CHOICES, {**usual, **given})
    refuse_idle(settings, given)
    _refuse_fragments(settings, task)
    return settings


def _refuse_fragments(settings: Mapping[str, tuple[Any, ...]], task: tasks.Task) -> None:
    """Refuse more fragments than what is trained has tensors; adapters are those of matrices."""
    shapes = task.learner.tensors.shapes
    adapted = max(settings["adapter_rank"]) > 0
    most = sum(len(shape) > 1 for shape in shapes) if adapted else len(shapes)
    asked = max(settings["fragments"])
    if asked > most > 0:
        beside = " with adapters" if adapted else ""
        raise UsageError(
            f"fragments {asked} is more than the tensors that task {task.name}{beside} trains; use at most {most}"
        )


def _job(options: Any, task: tasks.Task, settings: Mapping[str, tuple[Any, ...]]) -> Job:
    target = options.target_accuracy if options.target_accuracy is not None else task.target_accuracy
    if target is None:
        raise UsageError(
            f"nobody has trained task {options.task!r} on this data yet; say what accuracy to reach, such as "
            "--set target_accuracy=0.8"
        )
    return Job(
        task=task,
        fleet=_fleet(options),
        profile=profile_of(task),
        rounds=options.rounds,
        target=target,
        plain=Settings.of(plain(settings), {}),
        alpha=options.alpha,
        participation=options.participation,
        dropout=options.dropout,
        every=options.evaluate_every,
        repeats=options.repeats,
        seed=options.chance,
        given=fixed_of(settings),
    )


def _fleet(options: Any) -> Fleet:
    if options.fleet.endswith((".csv", ".json")):
        found = read_fleet(Path(options.fleet).expanduser(), options.chance)
        if found.n != options.devices:
            raise UsageError(
                f"{options.fleet} lists {found.n} devices and devices is {options.devices}; set devices={found.n}"
            )
        return found
    return fleet(options.devices, options.chance, options.fleet)


def _exactly(settings: Mapping[str, tuple[Any, ...]], space: Any, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of a baseline; None where the space does not have it as it is.

    How devices train, such as the method and its steps, is the job's; what is sent is the baseline's and nothing else.
    """
    exact = {**UNCOMPRESSED, **wanted}
    config: dict[str, Any] = config_of(settings, space, {**plain(settings), **exact})
    has = Settings.of(meaningful({**fixed_of(settings), **config}), {})
    return config if all(getattr(has, name) == value for name, value in exact.items()) else None


def _map(settings: Mapping[str, tuple[Any, ...]], space: SearchSpace, prediction: Prediction, drop: float) -> Caesar:
    """Caesar's rules, and starting points where the prediction knows a method."""
    known = any(method in KNOWN for method in settings["method"])
    return Starts(settings, space, prediction, drop) if known else Caesar(settings, space)


def _facts(job: Job, options: Any) -> dict[str, object]:
    task = job.task
    kinds = [f"{int((job.fleet.kind == place).sum())} {name}" for place, name in enumerate(job.fleet.kinds)]
    return {
        "task": f"{task.name}: {task.learner.tensors.size} parameters, {len(task.data.x)} samples, target {job.target:.1%}",
        "devices": f"{job.fleet.n}, {options.participation:.0%} of them a round: {', '.join(kinds)}",
        "training": f"{job.rounds} rounds, mean of {job.repeats} runs, on this machine's CPU; time is the devices', simulated",
        "data": f"sha256 {task.data.sha256[:12]}, Dirichlet alpha {options.alpha:g}",
        "compute times": f"measured on {job.profile.machine}",
    }


DOMAIN = Compression()
