"""Pictures of studies as Plotly figures. Needs the extra `dashboard`."""

from autotune.plots.agreement import agreement

__all__ = ["agreement"]
