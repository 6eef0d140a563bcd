"""From a YAML file to a `CommandSpec`; every error names file, line and field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autotune.command.spec import (
    BoolSpec,
    CategoricalSpec,
    CommandSpec,
    FloatSpec,
    IntSpec,
    OrdinalSpec,
    RepeatSpec,
    problems,
)
from autotune.command.yaml_lines import Location, parse
from autotune.errors import EmptySpaceError, UsageError

_PARAMETER_MODELS: dict[str, type[BaseModel]] = {
    "float": FloatSpec,
    "int": IntSpec,
    "ordinal": OrdinalSpec,
    "categorical": CategoricalSpec,
    "bool": BoolSpec,
}

_Lines: TypeAlias = Mapping[Location, int]


def load_spec(
    path: str | Path, command: Sequence[str] | None = None, overrides: Mapping[str, Any] | None = None
) -> CommandSpec:
    """Read and check a specification.

    Args:
        path: of the YAML file.
        command: program and arguments that replace the file's. They then run in the current folder where the file names
            no `cwd`; the file's own run in the file's folder.
        overrides: values that replace whole fields of the file, such as ``{"objectives": ["minimize wall_s"]}``.

    Raises:
        UsageError: ``space.yaml:7: parameters.tile.lwo: unknown field; did you mean 'low'?``
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path}: cannot be read: {reason}") from error
    data, lines = parse(text, str(path))
    if not isinstance(data, dict):
        raise UsageError(f"{path}:1: expected fields such as 'parameters:' and 'command:', but found {_kind(data)}")
    given = dict(overrides or {})
    if command is not None:
        given["command"] = list(command)
    spec = _validate(
        {**data, **given}, str(path), {place: n for place, n in lines.items() if place[:1] not in _tops(given)}
    )
    folder = Path.cwd() if command is not None and spec.cwd is None else path.resolve().parent
    return spec.model_copy(update={"cwd": str((folder / (spec.cwd or ".")).resolve())})


def _tops(given: Mapping[str, Any]) -> set[Location]:
    return {(name,) for name in given}


def _validate(data: dict[str, Any], source: str, lines: _Lines) -> CommandSpec:
    if "command" not in data:
        raise UsageError(f"{source}: there is no command; add 'command: [./bench, ...]', or give it after '--'")
    try:
        spec = CommandSpec.model_validate(data)
    except ValidationError as error:
        # A misspelt field is reported twice, as unknown and as missing; the first is the cause.
        errors = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        field, message = _describe(errors[0])
        raise UsageError(_located(source, lines, errors[0]["loc"], field, message + more)) from error
    for location, message in problems(spec):
        raise UsageError(_located(source, lines, location, location, message))
    _check_space(spec, source, lines)
    return spec


def _check_space(spec: CommandSpec, source: str, lines: _Lines) -> None:
    for name in spec.parameters:
        try:
            spec.parameter(name)
        except UsageError as error:
            place: Location = (
                ("default", name) if name in spec.default and "default" in str(error) else ("parameters", name)
            )
            raise UsageError(_located(source, lines, place, place, str(error))) from error
    try:
        space = spec.space()
    except UsageError as error:
        place = next((("constraints", i) for i, text in enumerate(spec.constraints) if text in str(error)), ())
        if not place:
            conditions = {name: one.when for name, one in spec.parameters.items()}
            place = next(
                (("parameters", name, "when") for name, when in conditions.items() if when and when in str(error)), ()
            )
        raise type(error)(_located(source, lines, place, place, str(error))) from error
    try:
        spec.default_config(space)
    except EmptySpaceError as error:
        raise EmptySpaceError(_located(source, lines, ("constraints",), (), str(error))) from error
    except UsageError as error:
        raise UsageError(_located(source, lines, ("default",), ("default",), str(error))) from error


def _located(
    source: str, lines: _Lines, location: Sequence[str | int], field: Sequence[str | int], message: str
) -> str:
    known: Location = ()
    for part in location:
        # Pydantic's locations also name the alternative of a union that was tried; these are no fields of the file.
        if (*known, part) in lines:
            known = (*known, part)
        elif (*known, str(part)) in lines:
            known = (*known, str(part))
    top = (location[0],) if location else ()
    where = f"{source}:{lines[known]}" if known[:1] == top or not top else source
    return f"{where}: {_dotted(field)}: {message}" if field else f"{where}: {message}"


def _dotted(field: Sequence[str | int]) -> str:
    text = ""
    for part in field:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _describe(error: ErrorDetails) -> tuple[Location, str]:
    """The field without the names of union alternatives, and what is wrong with it in one sentence."""
    field = _without_tags(error["loc"])
    value, context, message = error["input"], error.get("ctx", {}), error["msg"]
    match error["type"]:
        case "missing":
            field, text = field[:-1], f"field {field[-1]!r} is missing"
        case "extra_forbidden":
            known = list(_model_at(error["loc"]).model_fields)
            text = f"unknown field; {_closest(str(field[-1]), known) or 'known fields are: ' + ', '.join(known)}"
        case "union_tag_not_found":
            text = f"field 'type' is missing; use one of: {', '.join(_PARAMETER_MODELS)}"
        case "union_tag_invalid":
            tag, known = str(context["tag"]), list(_PARAMETER_MODELS)
            field, text = (*field, "type"), f"{tag!r} is unknown; {_closest(tag, known)} types are: {', '.join(known)}"
        case "value_error":
            text = str(context["error"])
        case "literal_error" if field == ("metrics",):
            text = f"{value!r} is unknown; write json, or a mapping of metric names to regular expressions"
        case "literal_error":
            text = f"{value!r} is unknown; use one of: {context['expected']}"
        case "bool_type":
            text = f"{value!r} is not a truth value; write true or false"
        case _:
            text = f"{value!r} cannot be used: {message[0].lower()}{message[1:]}"
    return field, " ".join(text.split())


def _closest(given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else ""


def _without_tags(location: Sequence[str | int]) -> Location:
    match tuple(location):
        case ("parameters", str(name), str(tag), *rest) if tag in _PARAMETER_MODELS:
            return ("parameters", name, *rest)
        case ("metrics", "json" | "patterns", *rest):
            return ("metrics", *rest)
        case ("command", int(i), "str" | "list[str]", *_):
            return ("command", i)
        case other:
            return tuple(part for part in other if part != "[key]")


def _model_at(location: Sequence[str | int]) -> type[BaseModel]:
    match tuple(location):
        case ("parameters", _, str(tag), _):
            return _PARAMETER_MODELS[tag]
        case ("repeats", _):
            return RepeatSpec
        case _:
            return CommandSpec


def _kind(data: object) -> str:
    return "nothing" if data is None else "a list" if isinstance(data, list) else f"{data!r}"
