"""Tuning any command without writing Python: a YAML specification and an evaluator that runs the command."""

from autotune.command.evaluator import CommandEvaluator, UnusedParameterWarning
from autotune.command.loader import load_spec
from autotune.command.spec import CommandSpec

__all__ = ["CommandEvaluator", "CommandSpec", "UnusedParameterWarning", "load_spec"]
