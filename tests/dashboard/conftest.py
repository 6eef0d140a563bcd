"""What tests of pages share: a store to be shown, with the settings that a server would have."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit import config
from streamlit.components.v2 import manifest_scanner

from dashboard import settings, workers


@pytest.fixture(scope="session", autouse=True)
def scanned_once() -> Iterator[None]:
    """Streamlit's harness reads the metadata of every installed package at every drawing, and its runtime goes over all
    objects after it, which takes longer than the drawing."""
    with pytest.MonkeyPatch.context() as patch:
        scan = functools.cache(manifest_scanner.scan_component_manifests)
        patch.setattr(manifest_scanner, "scan_component_manifests", scan)
        config.set_option("runner.postScriptGC", False)  # as `autotune dashboard` sets it
        yield


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a store that does not exist yet; pages that are drawn show it, and change nothing."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv(settings.STORAGE, url)
    for name in (settings.ALLOW_EDIT, settings.PASSWORD, settings.USER_HEADER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(workers.FOLDER, str(tmp_path / "state"))
    return url


@pytest.fixture
def editing(storage: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """As `storage`, where visitors may change things."""
    monkeypatch.setenv(settings.ALLOW_EDIT, "1")
    return storage
