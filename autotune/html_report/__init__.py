"""One page about a study that can be mailed: its result, the evidence, the environment, and how to repeat it."""

from autotune.html_report.report import Report, write_report

__all__ = ["Report", "write_report"]
