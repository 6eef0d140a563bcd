"""YAML by the rules of YAML 1.2's core schema, with the line of every field.

PyYAML follows YAML 1.1, which reads ``1e-4`` as text, ``on`` and ``no`` as booleans, ``010`` as eight and ``1:30`` as
ninety: all of them traps where numbers and choices are written. The rules here are those of
https://yaml.org/spec/1.2.2/#1032-tag-resolution.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from autotune.errors import UsageError

Location = tuple[str | int, ...]

# Far more than a specification ever has; aliases of aliases would otherwise grow without end.
_MAX_FIELDS = 100_000
_MAX_DEPTH = 50


class _CoreLoader(yaml.SafeLoader):
    """`SafeLoader` with the scalars of the core schema."""


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_form})$"), _first)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _integer)


def parse(text: str, source: str) -> tuple[Any, dict[Location, int]]:
    """Read one document.

    Args:
        text: the document.
        source: the name of the file, for messages.

    Returns:
        The data, and the 1-based line of every mapping key and list item by its path; the document itself is ``()``.

    Raises:
        UsageError: naming file and line, for bad syntax, a key that is given twice, or runaway aliases.
    """
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {(): 1}
        lines: dict[Location, int] = {(): node.start_mark.line + 1}
        _index(node, (), lines, source)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise UsageError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except RecursionError:
        raise UsageError(f"{source}: nested too deeply; a specification has a few levels") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _index(node: yaml.Node, path: Location, lines: dict[Location, int], source: str) -> None:
    if len(path) > _MAX_DEPTH or len(lines) > _MAX_FIELDS:
        raise UsageError(f"{source}:{node.start_mark.line + 1}: nested too deeply, or an alias contains itself")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{source}:{key.start_mark.line + 1}: a key must be plain text")
            if key.value in seen:
                raise UsageError(f"{source}:{key.start_mark.line + 1}: {key.value!r} is given twice; keep one")
            seen.add(key.value)
            lines[(*path, key.value)] = key.start_mark.line + 1
            _index(value, (*path, key.value), lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*path, i)] = value.start_mark.line + 1
            _index(value, (*path, i), lines, source)
