from __future__ import annotations

import functools
import math
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from autotune.errors import UsageError
from autotune.execution import InProcess, classify, details
from autotune.measurement import Failure, Measurement, Protocol


def raising(error: BaseException) -> Any:
    def evaluate(config: Mapping[str, Any]) -> float:
        raise error

    return evaluate


def test_a_number_a_mapping_and_a_seed_are_measured() -> None:
    runner = InProcess(["y"])
    assert runner.run(lambda config: 2 * config["x"], {"x": 3}, seed=0).values() == {"y": 6.0}

    def seeded(config: Mapping[str, Any], *, seed: int) -> dict[str, float]:
        return {"y": 1.0, "seed": seed}

    assert runner.run(seeded, {}, seed=7).values() == {"y": 1.0, "seed": 7.0}
    assert runner.run(functools.partial(seeded, seed=3), {}, seed=7).values()["seed"] == 3.0


def test_the_protocol_repeats_and_the_configuration_is_the_callers() -> None:
    seen = []

    def evaluate(config: dict[str, Any]) -> float:
        seen.append(list(config["tiles"]))
        config["tiles"].append(0)
        return float(len(seen))

    config = {"tiles": [1]}
    measured = InProcess(["y"], Protocol(warmup=1, min_repeats=3, max_repeats=3, target=None)).run(evaluate, config, 0)
    assert measured.metrics["y"].samples == (2.0, 3.0, 4.0)
    assert seen == [[1]] * 4
    assert config == {"tiles": [1]}


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "oom"),
        (OutOfMemoryError("allocating 3 GiB"), "oom"),
        (RuntimeError("CUDA error: out of memory"), "oom"),
        (RuntimeError("RESOURCE_EXHAUSTED: Failed to allocate request for 2.00GiB"), "oom"),
        (TimeoutError("no answer"), "timeout"),
        (subprocess.TimeoutExpired("nvcc", 3.0), "timeout"),
        (ZeroDivisionError("division by zero"), "crash"),
        (SystemExit(2), "crash"),
        (Failure("invalid", "too wide"), "invalid"),
    ],
)
def test_errors_become_typed_failures(error: BaseException, kind: str) -> None:
    with pytest.raises(Failure) as caught:
        InProcess(["y"]).run(raising(error), {}, 0)
    assert caught.value.kind == kind


def test_torch_names_its_error_as_expected() -> None:
    torch = pytest.importorskip("torch")
    assert classify(torch.OutOfMemoryError("allocating")).kind == "oom"


def test_a_crash_is_one_line_and_keeps_its_traceback() -> None:
    with pytest.raises(Failure) as caught:
        InProcess(["y"]).run(raising(ValueError("odd\n  tile")), {}, 0)
    assert caught.value.message == "ValueError: odd tile"
    assert "in evaluate" in details(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UsageError("no model folder"), GeneratorExit()])
def test_interrupts_and_the_callers_mistakes_propagate(error: BaseException) -> None:
    with pytest.raises(type(error)):
        InProcess(["y"]).run(raising(error), {}, 0)


def test_a_nan_is_a_failure_and_a_wrong_return_the_callers_mistake() -> None:
    runner = InProcess(["y"])
    with pytest.raises(Failure) as caught:
        runner.run(lambda config: math.nan, {}, 0)
    assert caught.value.kind == "nan"
    with pytest.raises(UsageError, match=r"returned no metric 'y'.*it returned: z"):
        runner.run(lambda config: {"z": 1}, {}, 0)
    assert isinstance(runner.run(lambda config: 1, {}, 0), Measurement)


def _takes_nothing() -> float:
    return 1.0


def _takes_two(config: Mapping[str, Any], other: int) -> float:
    return 1.0


@pytest.mark.parametrize("evaluate", [3, None, _takes_nothing, _takes_two])
def test_what_cannot_be_called_with_a_configuration_is_the_callers_mistake(evaluate: Any) -> None:
    with pytest.raises(UsageError, match="evaluate cannot be called with a configuration"):
        InProcess(["value"]).run(evaluate, {"x": 1}, 0)


def test_a_type_error_inside_the_evaluator_is_a_crash() -> None:
    def evaluate(config: Mapping[str, Any]) -> float:
        return _takes_two(config)  # type: ignore[call-arg]

    with pytest.raises(Failure, match="crash: TypeError"):
        InProcess(["value"]).run(evaluate, {"x": 1}, 0)


def test_an_error_whose_text_cannot_be_had_is_a_crash() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert str(classify(Silent())) == "crash: Silent: (its text cannot be had: RuntimeError)"


def test_a_failure_holds_nothing_that_a_terminal_acts_upon() -> None:
    assert str(classify(ValueError("a\x1b[31m\x07 b\u202e"))) == "crash: ValueError: a�[31m� b�"


def test_one_objective_may_be_given_as_text() -> None:
    assert InProcess("latency_ms").objectives == ("latency_ms",)
