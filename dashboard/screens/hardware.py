"""The machines that measured: what they are, and how fast their links and units really are."""

from __future__ import annotations

import json

import streamlit as st

from autotune import text
from autotune.errors import AutotuneError
from autotune.plots.hardware import compute, links
from autotune.store.queries import environments
from dashboard import markup, pictures
from dashboard.markup import Cell, Row
from dashboard.visit import Visit


def show(visit: Visit) -> None:
    """Draw the machines."""
    st.title("Hardware", anchor=False)
    found = environments(visit.store)
    if not found:
        st.info("No machine has measured anything in this store yet.")
        visit.follow()
        return
    columns = [Cell("machine"), Cell("processor"), Cell("accelerators"), Cell("software"), Cell("trials", numeric=True)]
    rows = []
    for machine in found:
        known = machine.details.get("details", machine.details)  # a machine's own, or a profile's with its name
        facts, software = known.get("hardware", {}), known.get("software", {})
        gpus = [str(gpu.get("name", gpu)) if isinstance(gpu, dict) else str(gpu) for gpu in facts.get("gpus", ())]
        told = ", ".join(f"{name} {version}" for name, version in software.items())
        rows.append(
            Row(
                [
                    Cell(machine.fingerprint),
                    Cell(str(facts.get("cpu", {}).get("model", text.NOTHING)), wraps=True),
                    Cell(", ".join(gpus) or "none", wraps=True),
                    Cell(told or text.NOTHING, wraps=True),
                    Cell(str(machine.trials), numeric=True),
                ]
            )
        )
    st.html(markup.table("machines", columns, rows))
    for machine in found:
        for place, profile in enumerate(machine.profiles):
            st.subheader(f"Profile of {machine.fingerprint}", anchor=False)
            for name, draw in (("link", links), ("compute", compute)):
                try:
                    figure = draw(profile.payload)
                except AutotuneError as error:
                    st.caption(f"No picture of the {name} curves:")
                    st.code(str(error), language=None, wrap_lines=True)
                    continue
                alt = f"Measured {name} times and rates of this machine by size."
                pictures.show(figure, f"{name} {machine.fingerprint} {place}", alt)
        with st.expander(f"All that is known of {machine.fingerprint}"):
            st.code(json.dumps(dict(machine.details), indent=2), language="json")
    visit.follow()
