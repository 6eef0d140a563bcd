"""Figures as files: a page that works offline, or a picture made by a browser on this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.plots.embedding import page

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMATS = ("svg", "png", "html")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_WIDTH, _HEIGHT, _SCALE = 1000, 520, 2
_KEPT: list[bool] = []  # whether `browser` keeps one open


def image(figure: go.Figure, format_: str) -> bytes:
    """A figure as the content of a file.

    Args:
        format_: ``html`` gives a page that holds all it needs and asks the network for nothing; ``svg`` and ``png`` are
            drawn by Chrome or Chromium on this machine, which takes some seconds to start (see `browser`).

    Raises:
        UsageError: for another format, or when no browser or kaleido is installed.
    """
    if format_ not in FORMATS:
        raise UsageError(f"format {format_!r} of a picture is unknown; use one of: {', '.join(FORMATS)}")
    if format_ == "html":
        return page(figure).encode()
    kaleido = _kaleido()
    size = {"width": figure.layout.width or _WIDTH, "height": figure.layout.height or _HEIGHT}
    started = {} if _KEPT else {"kopts": _started(find_browser(), kaleido)}
    try:
        content = kaleido.calc_fig_sync(figure.to_dict(), opts={"format": format_, "scale": _SCALE, **size}, **started)
    except (kaleido.errors.KaleidoError, RuntimeError) as error:  # the second where the browser itself fails
        raise UsageError(
            f"the browser could not draw the picture: {_first_line(error)}; write it as html instead"
        ) from None
    return bytes(content)


@contextmanager
def browser() -> Iterator[None]:
    """Keep one browser for all images that are made inside, as starting it takes longer than drawing.

    Raises:
        UsageError: when no browser or kaleido is installed.
    """
    kaleido = _kaleido()
    if _KEPT:
        yield
        return
    kaleido.start_sync_server(silence_warnings=True, **_started(find_browser(), kaleido))
    _KEPT.append(True)
    try:
        yield
    finally:
        _KEPT.clear()
        kaleido.stop_sync_server(silence_warnings=True)


def find_browser() -> str:
    """Path of the browser that draws images: $BROWSER_PATH, or the first of `BROWSERS` on the path.

    Raises:
        UsageError: when there is none.
    """
    named = os.environ.get("BROWSER_PATH")
    if named:
        if shutil.which(named) is None:
            raise UsageError(f"BROWSER_PATH is {named!r}, which is no program; name Chrome or Chromium, or unset it")
        return named
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise UsageError(
            "svg and png are drawn by Chrome or Chromium, and none is on the path; install one (apt-get install chromium), "
            "name it by BROWSER_PATH, or write html instead"
        )
    return found


def _kaleido() -> Any:
    try:
        import kaleido  # noqa: PLC0415 - it loads a browser's driver
        import kaleido.errors  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "svg and png need the package kaleido; install it with: pip install 'autotune[plots]', or write html"
        ) from None
    return kaleido


def _started(path: str, kaleido: Any) -> dict[str, Any]:
    """How the browser is started: with the plotly.js of this installation, and nothing from the network."""
    import plotly  # noqa: PLC0415

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return {"path": path, "page_generator": kaleido.PageGenerator(plotly=script, mathjax=False)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
