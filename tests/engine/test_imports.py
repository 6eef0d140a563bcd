"""What starting costs: the libraries that take long to import are imported by what needs them, not by everybody."""

from __future__ import annotations

import subprocess
import sys

import pytest

from autotune.strategies import STRATEGIES

HEAVY = {"scipy", "numba", "torch", "botorch", "gpytorch", "optuna", "pandas", "streamlit", "plotly", "kaleido", "shap"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import autotune; autotune.search, autotune.Study, autotune.Store"),
        ("-m", "autotune", "--help"),
        ("-m", "autotune", "search", "--help"),
    ],
    ids=" ".join,
)
def test_no_library_of_a_strategy_is_imported_before_it_is_used(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "numpy" in imported  # the list is of what this process imported
    assert not imported & HEAVY


def test_every_strategy_can_be_told_of_and_checked_without_its_libraries() -> None:
    code = """
import sys
from autotune.strategies import STRATEGIES, resolve
for name in STRATEGIES:
    strategy = resolve(name)
    print(strategy.name, strategy.summary, strategy.capabilities, strategy.settings_type.model_json_schema())
print(sorted({"scipy", "numba", "torch", "optuna"} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[-1] == "[]"
    assert [line.partition(" ")[0] for line in told[:-1]] == list(STRATEGIES)
