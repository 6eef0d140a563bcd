"""Start a search of a domain from a form, watch it, stop it, and go on with it."""

from __future__ import annotations

import datetime as dt
import shlex

import streamlit as st

from autotune import text
from autotune.domain import domain_names, load_domain
from autotune.errors import AutotuneError, UsageError
from autotune.options import parse_options
from autotune.stopping import Limits
from autotune.strategies import STRATEGIES
from dashboard import actions, forms, workers
from dashboard.visit import Visit
from dashboard.workers import Worker

_SHOWN = 20
_STARTS_S = 20.0  # until a form is answered that nothing has become of yet; the log below tells the rest


def show(visit: Visit) -> None:
    """Draw the form, and what was started."""
    st.title("Launch", anchor=False)
    if not visit.settings.allow_edit:
        st.info("This dashboard only reads. Start it with --allow-edit to launch, stop and resume searches from here:")
        st.code("autotune dashboard --allow-edit", language=None)
        return
    _form(visit)
    _watch(visit)


def _form(visit: Visit) -> None:
    domain_name = st.selectbox("Domain", domain_names(), key="domain", bind="query-params")
    domain = load_domain(domain_name)
    st.caption(domain.summary)
    with st.form("launch"):
        study = st.text_input("Name of the study", key="study name", placeholder=domain_name).strip() or domain_name
        left, middle, right = st.columns(3)
        trials = left.text_input("Trials", key="trials", placeholder="60").strip()
        timeout = middle.text_input("Seconds at most", key="timeout", placeholder="no limit").strip()
        strategy = right.selectbox(
            "Strategy", ["auto", *(name for name in STRATEGIES if name != "auto")], key="strategy"
        )
        evaluator = left.text_input("Evaluator", key="evaluator", placeholder="the domain's usual one").strip()
        seed = middle.text_input("Seed", key="seed", placeholder="0").strip()
        constraint = right.text_input("Constraint", key="constraint", placeholder="METRIC <= X").strip()
        with st.expander(f"Options of {domain_name}"):
            options = forms.fields(domain.options, f"option {domain_name}")
        pressed = st.form_submit_button("Launch", type="primary")
    if not pressed:
        return
    arguments = ["search", domain_name, "--study", study, "--strategy", strategy]
    for flag, value in (
        ("--trials", trials), ("--timeout", timeout), ("--evaluator", evaluator), ("--seed", seed),
        ("--constraint", constraint),
    ):  # fmt: skip
        arguments += [flag, value] if value else []
    for name, value in options.items():
        arguments += ["--set", f"{name}={value}"]
    try:
        parse_options(domain.options, options)
        _limits(trials, timeout)
        if seed and not seed.isdecimal():
            raise UsageError(f"seed is {seed!r}; give a whole number from 0 on, or leave it empty")
        worker = workers.launch(visit.settings.storage, study, arguments, actions.owner(visit))
    except (AutotuneError, OSError) as error:
        st.error("This cannot be launched:")
        st.code(str(error), language=None, wrap_lines=True)
        return
    st.session_state["launched"] = worker.log
    # A domain may refuse what each option alone allows, which its process finds out.
    with st.spinner("Starting …"):
        workers.wait(worker, lambda: actions.has_begun(visit, worker), _STARTS_S)
    if worker.failed:
        st.error("This was launched, and ended at once:")
        st.code(worker.tail, language=None, wrap_lines=True)
    else:
        st.success("Launched, in a process of its own. What it says stands below.")


def _limits(trials: str, timeout: str) -> None:
    try:
        wanted = int(trials) if trials else None
        seconds = float(timeout) if timeout else None
    except ValueError:
        raise UsageError(f"trials are {trials!r} and seconds {timeout!r}; give numbers, or leave them empty") from None
    Limits.check(trials=wanted, timeout_s=seconds, target=None, min_gain=None, min_gain_per_hour=None)


@st.fragment(run_every=2.0)
def _watch(visit: Visit) -> None:
    st.subheader("Searches that were launched here", anchor=False)
    found = workers.known(visit.settings.storage)
    if not found:
        st.caption("None yet.")
    for worker in found[:_SHOWN]:
        _worker(visit, worker, newest=worker.log == st.session_state.get("launched"))
    if len(found) > _SHOWN:
        st.caption(f"The newest {_SHOWN} of {len(found)}.")


def _worker(visit: Visit, worker: Worker, *, newest: bool) -> None:
    runs = worker.process is not None
    began = dt.datetime.fromtimestamp(worker.began, dt.UTC)
    with st.container(border=True):
        st.code(shlex.join(worker.command), language=None, wrap_lines=True)
        about, stop, resume = st.columns([4, 1, 1], vertical_alignment="center")
        state = "runs" if runs else "ended"
        about.caption(f"process {worker.pid}, {state}, started {text.age(began, dt.datetime.now(dt.UTC))} ago")
        if runs and stop.button("Stop", key=f"stop {worker.log}", help="After the running trial; nothing is lost."):
            actions.stop_worker(visit, worker)
        if not runs and resume.button("Resume", key=f"resume {worker.log}", help="Go on until its budget is spent."):
            workers.resume(visit.settings.storage, worker.study, actions.owner(visit))
        with st.expander("What it says", expanded=newest or runs):
            st.code(worker.tail or "nothing yet", language=None, height=220)
