"""Running evaluators: in this process, or isolated in one of their own with limits on time and memory."""

from autotune.execution.isolated import Isolated
from autotune.execution.process import Limits
from autotune.execution.runner import Evaluate, InProcess, Runner, classify, described, details

__all__ = ["Evaluate", "InProcess", "Isolated", "Limits", "Runner", "classify", "described", "details"]
