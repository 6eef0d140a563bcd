"""A configuration for the program that runs it: every exporter of the domain, to be copied or downloaded."""

from __future__ import annotations

import io
import json
import zipfile

import streamlit as st

from autotune.errors import AutotuneError
from autotune.exporting import Exported, export_config, exporters_of
from autotune.study_view import StudyView
from dashboard import forms

_JSON = "json"


def show(view: StudyView) -> None:
    """A trial's configuration by the exporter that the reader chooses."""
    if not view.feasible:
        st.info("There is no configuration to take away yet: nothing feasible was measured.")
        return
    best = view.best.number if view.best is not None else view.pareto[0].number
    numbers = [t.number for t in view.feasible]
    left, right = st.columns(2)
    number = left.selectbox("Trial", numbers, index=numbers.index(best), key="export trial", help="The best one first.")
    trial = next(t for t in view.feasible if t.number == number)
    try:
        known = exporters_of(view.study)
    except AutotuneError as error:
        st.warning("The exporters of this study's domain cannot be used here:")
        st.code(str(error), language=None, wrap_lines=True)
        known = {}
    formats = [_JSON, *known]
    chosen = right.selectbox("Format", formats, key="format", bind="query-params")
    try:
        if chosen == _JSON:
            exported = Exported(json.dumps(dict(trial.config), indent=2) + "\n", ".json")
        else:
            st.caption(known[chosen].summary)
            given = forms.fields(known[chosen].options, f"export {chosen}")
            exported = export_config(view.study, chosen, trial, given, _stem(view))
    except AutotuneError as error:
        st.warning("This format cannot be written yet:")
        st.code(str(error), language=None, wrap_lines=True)
        return
    if exported.cannot:
        st.warning("What this format cannot express:")
        st.code("\n".join(exported.cannot), language=None, wrap_lines=True)
    _download(exported, f"{_stem(view)}-{number}")
    # The box has a button that copies all of it.
    st.code(exported.text, language=exported.suffix.lstrip(".") or None, height=420)


def _download(exported: Exported, name: str) -> None:
    if not exported.attachments:
        st.download_button("Download", exported.text, f"{name}{exported.suffix}", key="download", on_click="ignore")
        return
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}{exported.suffix}", exported.text)
        for file, content in exported.attachments.items():
            archive.writestr(file, content)
    help_ = f"A zip archive, as the configuration refers to {len(exported.attachments)} more files."
    st.download_button("Download", packed.getvalue(), f"{name}.zip", key="download", on_click="ignore", help=help_)


def _stem(view: StudyView) -> str:
    """The study's name as far as it may be part of a file's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in view.study.name).strip(".-") or "autotune"
