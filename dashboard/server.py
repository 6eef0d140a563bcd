"""What `streamlit run` serves: the page's script behind the gate."""

from __future__ import annotations

import logging
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from dashboard.access import Gate
from dashboard.settings import Settings

_log = logging.getLogger("autotune.dashboard")


def _told(error: Exception) -> bool:
    """A page that broke says so in one sentence; what broke is in the server's log."""
    _log.error("a page could not be drawn", exc_info=error)
    st.error("This page could not be drawn. The terminal of the dashboard says why; other pages are not affected.")
    return True


_settings = Settings.read()
app = st.App(
    Path(__file__).with_name("app.py"),
    middleware=[Middleware(Gate, password=_settings.password, user_header=_settings.user_header)],
    on_script_error=_told,
)
