"""The schema of ``space.yaml``: what to tune, how to run it, how to read what it printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from autotune.checks import is_name
from autotune.command.template import Template, format_value
from autotune.errors import UsageError
from autotune.measurement import Protocol
from autotune.objective import Objective, OutcomeConstraint, parse_objectives
from autotune.space import Bool, Categorical, Float, Int, Ordinal, SearchSpace
from autotune.space.parameters import Config, Parameter
from autotune.store.models import NAME_LENGTH

WALL_TIME = "wall_s"
"""The metric that is measured here: seconds from the command's start to its end."""

CONFIG_FILE, SEED, PYTHON = "config_file", "seed", "python"
BUILT_IN = {
    CONFIG_FILE: "path of a JSON file with the configuration",
    SEED: "the trial's seed",
    PYTHON: "the Python interpreter that runs the search",
}
"""Placeholders that are no parameters."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _ParameterSpec(_Model):
    when: str | None = None
    size: int | None = None
    default: Any = None


class FloatSpec(_ParameterSpec):
    """A real number."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False


class IntSpec(_ParameterSpec):
    """A whole number."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = 1


class OrdinalSpec(_ParameterSpec):
    """Values in their order."""

    type: Literal["ordinal"]
    values: list[Any]


class CategoricalSpec(_ParameterSpec):
    """Choices without an order."""

    type: Literal["categorical"]
    choices: list[Any]


class BoolSpec(_ParameterSpec):
    """True or false."""

    type: Literal["bool"]


ParameterSpec = Annotated[
    FloatSpec | IntSpec | OrdinalSpec | CategoricalSpec | BoolSpec,
    Field(discriminator="type"),
]


class RepeatSpec(_Model):
    """How often the command is run for one configuration; see `autotune.measurement.Protocol`.

    Attributes:
        warmup: runs whose results are thrown away.
        min, max: counted runs. Without `max`: `min`, or 30 where a target is given.
        target: wanted half-width of the 95 % interval of the median, relative to the median. Such an interval exists
            from six runs on; below, all `max` runs are made unless they agree exactly.
    """

    warmup: int = 0
    min: int = 1
    max: int | None = None
    target: float | None = None

    @model_validator(mode="after")
    def _usable(self) -> RepeatSpec:
        self.protocol()
        if self.target is not None and not self.target > 0:
            raise ValueError(f"target is {self.target}; give a share above 0, such as 0.05")
        return self

    def protocol(self) -> Protocol:
        """As the engine's protocol. One run says nothing about noise, so a target asks for two where two are allowed."""
        most = self.max if self.max is not None else self.min if self.target is None else max(30, self.min)
        least = self.min if self.target is None or most < 2 else max(2, self.min)
        return Protocol(self.warmup, least, most, self.target)


def _text(value: object) -> object:
    return format_value(value) if isinstance(value, (bool, int, float)) else value


def _template(value: object) -> str:
    text = _text(value)
    if not isinstance(text, str):
        raise ValueError(f"is {value!r}; write text")
    Template.parse(text)
    return text


def _argument(value: object) -> str | list[str]:
    if isinstance(value, list):
        if not value:
            raise ValueError("is an empty list; write the arguments that belong together")
        return [_template(item) for item in value]
    return _template(value)


def _command(value: object) -> object:
    try:
        return shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"cannot be split into arguments ({error}); write a list") from error


def _pattern(value: str) -> str:
    try:
        compiled = re.compile(value, re.MULTILINE)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from error
    if compiled.groups != 1:
        raise ValueError(f"{value!r} has {compiled.groups} groups; put exactly one around the number")
    return value


def _objective(value: str) -> str:
    return str(Objective.parse(value))


def _outcome_constraint(value: str) -> str:
    OutcomeConstraint.parse(value)
    return value


def _objectives(value: list[str]) -> list[str]:
    return [str(objective) for objective in parse_objectives(value)]


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _study_name(value: str) -> str:
    if not is_name(value, NAME_LENGTH):
        raise ValueError(f"{value!r} cannot name a study; give 1 to {NAME_LENGTH} printable characters")
    return value


def _variable(value: str) -> str:
    if not value or "=" in value or not value.isprintable():
        raise ValueError(f"{value!r} cannot name an environment variable; write NAME: value")
    return value


def _exit_code(value: int) -> int:
    if not 1 <= value <= 255:
        raise ValueError(f"{value} is no exit code of a failure; use 1 to 255")
    return value


def _metrics_form(value: object) -> str:
    return "patterns" if isinstance(value, dict) else "json"


Metrics = Annotated[
    Annotated[Literal["json"], Tag("json")]
    | Annotated[dict[str, Annotated[str, AfterValidator(_pattern)]], Tag("patterns")],
    Discriminator(_metrics_form),
]


class CommandSpec(_Model):
    """A command to tune.

    Attributes:
        name: of the study.
        parameters: by name; each is a placeholder in the templates.
        constraints: known constraints, as `autotune.space.SearchSpace` reads them.
        objectives, outcome_constraints: over the command's metrics and ``wall_s``.
        default: the configuration that people use today, wholly or in part; it becomes trial 0.
        command: program and arguments, each a template; a list of several is dropped as one where a parameter is inactive.
            Text is split as a shell would, and no shell runs it.
        metrics: ``json`` (an object on the last non-blank line of the output) or a regular expression by metric name; by
            default ``json``, and nothing where only ``wall_s`` is asked for.
        stream: where the metrics are read.
        exit_codes: failure kinds by exit code; any other code above 0 is a `crash`.
        env: templates of environment variables, added to the search's own environment.
        cwd: working folder, relative to the file's folder.
        timeout_s: wall time of one run in seconds.
        memory_limit_gib: resident memory of one run with all its processes in GiB.
        repeats: how often the command is run for one configuration.
        trials, strategy, seed: as `autotune.search` takes them.
    """

    name: Annotated[str, AfterValidator(_study_name)] | None = None
    parameters: dict[str, ParameterSpec] = Field(min_length=1)
    constraints: list[str] = []
    objectives: Annotated[
        list[Annotated[str, AfterValidator(_objective)]],
        BeforeValidator(_one_or_many),
        AfterValidator(_objectives),
    ]
    outcome_constraints: Annotated[
        list[Annotated[str, AfterValidator(_outcome_constraint)]], BeforeValidator(_one_or_many)
    ] = []
    default: dict[str, Any] = {}
    command: Annotated[
        list[Annotated[str | list[str], BeforeValidator(_argument)]], BeforeValidator(_command), Field(min_length=1)
    ]
    metrics: Metrics | None = None
    stream: Literal["stdout", "stderr"] = "stdout"
    exit_codes: dict[
        Annotated[int, AfterValidator(_exit_code)], Literal["invalid", "oom", "timeout", "crash", "nan", "infra"]
    ] = {}
    env: dict[Annotated[str, AfterValidator(_variable)], Annotated[str, BeforeValidator(_template)]] = {}
    cwd: str | None = None
    timeout_s: float | None = Field(default=None, gt=0)
    memory_limit_gib: float | None = Field(default=None, gt=0)
    repeats: RepeatSpec = RepeatSpec()
    trials: int = Field(default=50, ge=1)
    strategy: str = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)

    @classmethod
    def stored(cls, described: Mapping[str, Any]) -> CommandSpec:
        """The specification that a study keeps of its command.

        Raises:
            UsageError: where another version of autotune wrote something else.
        """
        try:
            return cls.model_validate_json(json.dumps(described))
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise UsageError(
                f"the stored command cannot be read ({where}: {error.errors()[0]['msg']}); go on with its SPACE.yaml"
            ) from error

    def parameter(self, name: str) -> Parameter:
        """One parameter as the engine's own type, with the default that the specification gives it.

        Raises:
            UsageError: when its domain or default makes no sense.
        """
        spec = self.parameters[name]
        default = self.default.get(name, spec.default)
        match spec:
            case FloatSpec():
                return Float(name, spec.low, spec.high, spec.log, when=spec.when, size=spec.size, default=default)
            case IntSpec():
                return Int(
                    name, spec.low, spec.high, spec.log, spec.step, when=spec.when, size=spec.size, default=default
                )
            case OrdinalSpec():
                return Ordinal(name, spec.values, when=spec.when, size=spec.size, default=default)
            case CategoricalSpec():
                return Categorical(name, spec.choices, when=spec.when, size=spec.size, default=default)
            case BoolSpec():
                return Bool(name, when=spec.when, size=spec.size, default=default)

    def space(self) -> SearchSpace:
        """The search space.

        Raises:
            UsageError: when a parameter, condition or constraint makes no sense.
        """
        return SearchSpace([self.parameter(name) for name in self.parameters], constraints=self.constraints)

    def default_config(self, space: SearchSpace) -> Config:
        """Trial 0: the declared defaults, with the engine's own for what none is declared of.

        Raises:
            EmptySpaceError: when no configuration is feasible.
            UsageError: when a declared default cannot be kept, as the search would start from something else then.
        """
        start = space.default()
        declared = {name: _declared(self.parameter(name)) for name in start}
        wanted = {**start, **{name: value for name, value in declared.items() if value is not None}}
        if wanted != start:
            why = "; ".join(space.explain(wanted))
            raise UsageError(f"the default configuration is not feasible: {why}; declare a default that is")
        return start

    def protocol(self) -> Protocol:
        """How often to repeat."""
        return self.repeats.protocol()

    def required_metrics(self) -> tuple[str, ...]:
        """What the command itself must report: all metrics of objectives and outcome constraints but `WALL_TIME`."""
        names = [Objective.parse(text).metric for text in self.objectives]
        names += [OutcomeConstraint.parse(text).metric for text in self.outcome_constraints]
        reported = isinstance(self.metrics, dict) and WALL_TIME in self.metrics
        return tuple(name for name in dict.fromkeys(names) if name != WALL_TIME or reported)

    def groups(self) -> tuple[tuple[Template, ...], ...]:
        """The command's templates, grouped by what is dropped together."""
        items = [item if isinstance(item, list) else [item] for item in self.command]
        return tuple(tuple(Template.parse(text) for text in item) for item in items)

    def templates(self) -> Iterator[tuple[tuple[str | int, ...], Template]]:
        """All templates with their place in the file."""
        for i, group in enumerate(self.groups()):
            for template in group:
                yield ("command", i), template
        for name, text in self.env.items():
            yield ("env", name), Template.parse(text)

    def unused(self) -> tuple[str, ...]:
        """Parameters that the command never sees. None where it reads the configuration file."""
        used = {placeholder.name for _, template in self.templates() for placeholder in template.placeholders}
        return () if CONFIG_FILE in used else tuple(name for name in self.parameters if name not in used)

    def folder(self) -> Path:
        """The working folder of the command."""
        return Path(self.cwd or ".").resolve()


def _declared(parameter: Parameter) -> Any:
    if parameter.size is None or parameter.default is None:
        return parameter.default
    return list(parameter.default) if isinstance(parameter.default, tuple) else [parameter.default] * parameter.size


def require_consistent(spec: CommandSpec) -> None:
    """Raise the first of `problems` as a `UsageError`."""
    for location, message in problems(spec):
        raise UsageError(f"{'.'.join(map(str, location))}: {message}")


def problems(spec: CommandSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong between the fields of a specification: places and messages."""
    for name in spec.parameters:
        if name in BUILT_IN:
            yield ("parameters", name), f"the placeholder {{{name}}} is {BUILT_IN[name]}; rename the parameter"
    for name in spec.default:
        if name not in spec.parameters:
            yield ("default", name), f"there is no parameter {name!r}; parameters are: {', '.join(spec.parameters)}"
    for location, template in spec.templates():
        for placeholder in template.placeholders:
            message = _placeholder_problem(spec, placeholder.name, placeholder.index, placeholder.then)
            if message:
                yield location, f"{template.source!r}: {message}"
    if isinstance(spec.metrics, dict):
        for name in spec.required_metrics():
            if name not in spec.metrics:
                yield (
                    ("metrics",),
                    f"there is no pattern for {name!r}, which the objectives or outcome constraints need",
                )


def _placeholder_problem(spec: CommandSpec, name: str, index: int | None, then: str | None) -> str | None:
    if name in BUILT_IN:
        return None if index is None and then is None else f"{{{name}}} takes neither an index nor a '?'"
    parameter = spec.parameters.get(name)
    if parameter is None:
        return (
            f"there is no parameter {name!r}; parameters are: {', '.join(spec.parameters)} (and {', '.join(BUILT_IN)})"
        )
    if index is not None and (parameter.size is None or index >= parameter.size):
        return f"{name} has no element {index}; it is " + (
            "one value" if parameter.size is None else f"a vector of {parameter.size}"
        )
    if then is not None and (not isinstance(parameter, BoolSpec) or parameter.size is not None):
        return f"{{{name}?...}} needs a parameter of type bool, and {name} is not one"
    return None
