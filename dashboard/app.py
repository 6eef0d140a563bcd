"""The script that is run for every drawing of a page: what all pages share, and the one that was asked for."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard import markup, visit
from dashboard.screens import compare, hardware, launch, studies, study, trial
from dashboard.settings import Settings

_ICON = Path(__file__).with_name("icon.png")


def main() -> None:
    """Draw the page that the address names."""
    # An icon of our own, as the usual one, and those of pages, are fetched from the internet.
    st.set_page_config(page_title="autotune", layout="wide", page_icon=str(_ICON))
    st.html(markup.STYLE)
    settings = Settings.read()
    listed = st.Page(visit.page(settings, studies.show), title="Studies", default=True)
    of_study = st.Page(visit.page(settings, study.show), title="Study", url_path="study")
    of_trial = st.Page(visit.page(settings, trial.show), title="Trial", url_path="trial")
    pages = [
        listed,
        of_study,
        of_trial,
        st.Page(visit.page(settings, compare.show), title="Compare", url_path="compare"),
        st.Page(visit.page(settings, launch.show), title="Launch", url_path="launch"),
        st.Page(visit.page(settings, hardware.show), title="Hardware", url_path="hardware"),
    ]
    page = st.navigation(pages, position="top")
    named = st.query_params
    if page == listed and visit.STUDY in named:
        # Links lead to the root: at any other address Streamlit first asks for its own files where they are not.
        st.switch_page(of_trial if visit.TRIAL in named else of_study, query_params=dict(named))
    page.run()


main()
