"""Methods with control variates: they find the exact optimum of devices that disagree, where plain local steps do not."""

from __future__ import annotations

import pytest
import torch

from autotune import UsageError
from evaluators.federated.methods import Method, make_method
from evaluators.federated.methods.locodl import steps_until_heads
from evaluators.federated.settings import Settings
from evaluators.federated.tradeoffs import Quadratics, conditioned, rounds_to, world_of
from tests.federated.worlds import drifting, run

VOLUMES = (30, 10, 10, 10)


def made(learner: Quadratics, method: str, *, steps: int, rate: float, **options: float | str) -> Method:
    chosen = Settings(method, batch=0, local_steps=steps, learning_rate=rate, **options)  # type: ignore[arg-type]
    return make_method(world_of(learner, VOLUMES[: len(learner.centres)]), chosen)


def optimum(learner: Quadratics) -> torch.Tensor:
    """By samples, as federated averaging weighs devices."""
    return learner.optimum(torch.tensor(VOLUMES))


def distance(learner: Quadratics, method: Method, rounds: int) -> float:
    return float((run(method, rounds) - optimum(learner)).norm() / optimum(learner).norm())


def test_one_local_step_finds_the_optimum_by_samples_and_several_drift() -> None:
    learner = drifting()
    assert distance(learner, made(learner, "fedavg", steps=1, rate=0.4), 40) < 1e-4
    assert distance(learner, made(learner, "fedavg", steps=4, rate=0.4), 40) > 0.05
    # The optimum by samples is not that of devices that count alike.
    assert float((learner.optimum() - optimum(learner)).norm() / optimum(learner).norm()) > 0.05


@pytest.mark.parametrize(
    ("method", "options", "rounds"),
    [
        ("scallion", {}, 50),
        ("scafcom", {"momentum": 0.0}, 50),
        ("scafcom", {"momentum": 0.5}, 70),
        ("scallion", {"compressor": "rand-k", "upload_keep": 0.5}, 120),
        ("scallion", {"compressor": "rand-k", "upload_keep": 0.5, "importance_share": 0.3}, 120),
        ("scafcom", {"compressor": "top-k", "upload_keep": 0.34, "momentum": 0.2}, 120),
        ("scafcom", {"compressor": "rand-k", "upload_keep": 0.5, "momentum": 0.2}, 120),
    ],
)
def test_controlled_averaging_finds_the_optimum_with_several_local_steps(
    method: str, options: dict[str, float | str], rounds: int
) -> None:
    learner = drifting()
    rate = 0.05 if "compressor" in options else 0.1
    assert distance(learner, made(learner, method, steps=4, rate=rate, **options), rounds) < 1e-2


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 1),
        ({}, 3),
        ({"compressor": "rand-k", "upload_keep": 0.25}, 1),
        ({"compressor": "rand-k", "upload_keep": 0.25}, 2),
        ({"compressor": "quantise", "upload_keep": 0.125}, 3),
    ],
)
def test_locodl_converges_linearly_to_the_exact_optimum(options: dict[str, float | str], steps: int) -> None:
    learner = conditioned(4, 16, 10.0)
    found = []
    for gain in (1e-2, 1e-5, 1e-8):
        method = made(learner, "locodl", steps=steps, rate=2 / 11, **options)
        found.append(rounds_to(method, optimum(learner), gain, 1500))
    assert None not in found
    first, second, third = (rounds for rounds in found if rounds is not None)
    # Each thousandth part takes about as long as the one before; sublinear rates take many times longer.
    assert third - second <= 2 * (second - first) + 10  # what the coins add


def test_locodls_invariant() -> None:
    """Controls and the shared control sum to zero by weight, and all models agree where nothing is dropped."""
    learner = conditioned(4, 16, 10.0)
    method = made(learner, "locodl", steps=2, rate=0.1, compressor="rand-k", upload_keep=0.25)
    run(method, 20)
    shares = torch.tensor(VOLUMES).float() / sum(VOLUMES)
    torch.testing.assert_close(shares @ method.controls, -method.control, atol=1e-4, rtol=0)  # type: ignore[attr-defined]
    whole = made(learner, "locodl", steps=2, rate=0.1)
    run(whole, 3)
    torch.testing.assert_close(whole.models, whole.model.repeat(4, 1))  # type: ignore[attr-defined]


def test_steps_until_heads_are_geometric_with_the_mean_asked_for() -> None:
    chances = (torch.arange(20000) + 0.5) / 20000
    for mean in (1, 2, 5, 20):
        steps = torch.tensor([steps_until_heads(float(chance), mean) for chance in chances]).double()
        assert float(steps.mean()) == pytest.approx(mean, rel=0.01)
        assert float((steps == 1).double().mean()) == pytest.approx(1 / mean, abs=1e-3)


@pytest.mark.parametrize("method", ["scallion", "locodl"])
def test_a_biased_compressor_is_refused(method: str) -> None:
    with pytest.raises(UsageError, match=r"top-k.*unbiased"):
        made(drifting(), method, steps=1, rate=0.1, compressor="top-k", upload_keep=0.5)
