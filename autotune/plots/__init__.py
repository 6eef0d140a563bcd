"""Pictures of studies as Plotly figures. Drawing needs the extra `plots`; what there is to draw can be told without it.

The names below are loaded when they are first used, so that importing the engine stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.plots.catalogue import VIEWS, figure, views_of
    from autotune.plots.images import FORMATS, browser, image
    from autotune.plots.validated import agreement

__all__ = ["FORMATS", "VIEWS", "agreement", "browser", "figure", "image", "views_of"]

_FROM = {
    "VIEWS": "catalogue",
    "figure": "catalogue",
    "views_of": "catalogue",
    "FORMATS": "images",
    "browser": "images",
    "image": "images",
    "agreement": "validated",
}


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
