"""Forms from pydantic models: a field for each option, which is validated as on the command line."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

import streamlit as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from autotune.text import value_text

_USUAL = "usual"


def fields(model: type[BaseModel], key: str) -> dict[str, str]:
    """What a reader typed or chose, as the texts that ``--set NAME=VALUE`` would take; what was left alone is left out."""
    given: dict[str, str] = {}
    for name, described in model.model_fields.items():
        value = field(name, described, f"{key} {name}")
        if value:
            given[name] = value
    return given


def field(name: str, described: FieldInfo, key: str) -> str:
    """One of them; empty where it was left alone."""
    default = None if described.is_required() or described.default is None else value_text(described.default)
    label = name if not described.is_required() else f"{name} (needed)"
    choices = _choices(described.annotation)
    # Descriptions are Markdown to Streamlit, ours are plain sentences.
    told = (described.description or "").replace("<", "\\<").replace("[", "\\[")
    if choices:
        usual = f"{_USUAL}: {default}" if default is not None else _USUAL
        found: str = st.selectbox(label, [usual, *choices], key=key, help=told)
        return "" if found == usual else found
    return st.text_input(label, key=key, help=told, placeholder=default or "").strip()


def _choices(annotation: Any) -> list[str]:
    """The values of a type that has few of them."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return _choices(parts[0]) if len(parts) == 1 else []
    return []
