"""Acquisitions on a BoTorch model of gains, scored at each of a list of candidates.

Each takes a `Question` and gives one number per candidate, the larger the better. Nothing is optimised over continuous
inputs: what may be proposed is a list of feasible configurations, and each of them is scored.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import gpytorch
import numpy as np
import numpy.typing as npt
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.joint_entropy_search import qJointEntropySearch
from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.acquisition.max_value_entropy_search import qLowerBoundMaxValueEntropy
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.parego import qLogNParEGO
from botorch.models import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.sampling import manual_seed
from linear_operator.utils.errors import NanError, NotPSDError
from linear_operator.utils.warnings import NumericalWarning

from autotune.strategies.bo.gp import FitError
from autotune.strategies.bo.knowledge_gradient import log_knowledge_gradient

Floats = npt.NDArray[np.float64]

_CHUNK = 128  # candidates that are scored at once; bounds the memory of batched conditional models
_SAMPLES = 256  # quasi-random draws of an expectation
_SEVERAL_SAMPLES = 64  # of a hypervolume, each of which has a front of its own
_OPTIMA = 32  # draws of where and how high the optimum is
_EXACT = 4096  # points of a joint distribution up to which it is factorised and not approximated


@dataclass(frozen=True)
class Question:
    """What is asked of an acquisition.

    Attributes:
        model: of gains; a `ModelListGP` where there are several objectives.
        candidates: its inputs, shape ``(m, d)``.
        baseline: inputs of what was measured and may be chosen in the end, shape ``(b, d)``.
        pending: inputs of what is under way, shape ``(p, d)``.
        goal: by objective, the gain to be beaten: the best one, or that of the reference point of several objectives.
        seed: of everything random.
    """

    model: SingleTaskGP | ModelListGP
    candidates: torch.Tensor
    baseline: torch.Tensor
    pending: torch.Tensor
    goal: tuple[float, ...]
    seed: int


def answer(name: str, question: Question) -> Floats:
    """Values of the acquisition of that name at the candidates, shape ``(m,)``.

    Raises:
        FitError: when a covariance cannot be factorised, or a value is not a number.
    """
    threads = torch.get_num_threads()
    # At this size threads gain nothing, and where others compute too they wait for each other.
    torch.set_num_threads(1)
    try:
        with (
            torch.no_grad(),
            manual_seed(question.seed),
            gpytorch.settings.max_cholesky_size(_EXACT),
            warnings.catch_warnings(),
        ):
            # Draws without noise are of singular covariances; the jitter of 1e-8 that is told of is what they need.
            warnings.simplefilter("ignore", NumericalWarning)
            values = _ACQUISITIONS[name](question)
    except (NotPSDError, NanError) as error:
        raise FitError(str(error)) from None
    finally:
        torch.set_num_threads(threads)
    if np.isnan(values).any():
        raise FitError("a value is not a number")
    return values


def _in_chunks(acquisition: AcquisitionFunction, candidates: torch.Tensor) -> Floats:
    values = [acquisition(chunk[:, None, :]) for chunk in torch.split(candidates, _CHUNK)]
    return np.asarray(torch.cat(values).numpy(), dtype=float)


def _sampler(question: Question, samples: int = _SAMPLES) -> SobolQMCNormalSampler:
    return SobolQMCNormalSampler(torch.Size([samples]), seed=question.seed)


def _pending(question: Question) -> torch.Tensor | None:
    return question.pending if len(question.pending) else None


def _joint_expected_improvement(question: Question) -> Floats:
    """Of what is pending and the candidate together, so that a batch does not promise the same thing twice."""
    acquisition = qLogExpectedImprovement(
        question.model, best_f=question.goal[0], sampler=_sampler(question), X_pending=_pending(question)
    )
    return _in_chunks(acquisition, question.candidates)


def _noisy_expected_improvement(question: Question) -> Floats:
    """Over the best of what was measured as the model sees it, not over the luckiest measurement."""
    acquisition = qLogNoisyExpectedImprovement(
        question.model,
        X_baseline=question.baseline,
        sampler=_sampler(question),
        X_pending=_pending(question),
        prune_baseline=True,
    )
    return _in_chunks(acquisition, question.candidates)


def _max_value_entropy(question: Question) -> Floats:
    """What a measurement tells about how high the maximum is; its draws are joint, of candidates and measured points."""
    acquisition = qLowerBoundMaxValueEntropy(
        question.model, question.candidates, num_mv_samples=_OPTIMA, use_gumbel=False
    )
    return _in_chunks(acquisition, question.candidates)


def _joint_entropy(question: Question) -> Floats:
    """What a measurement tells about where the maximum is and how high."""
    everywhere = torch.cat([question.candidates, question.baseline])
    draws = question.model.posterior(everywhere).rsample(torch.Size([_OPTIMA])).squeeze(-1)
    highest, where = draws.max(dim=1)
    acquisition = qJointEntropySearch(
        question.model, optimal_inputs=everywhere[where], optimal_outputs=highest[:, None], estimation_type="LB"
    )
    return _in_chunks(acquisition, question.candidates)


def _knowledge_gradient(question: Question) -> Floats:
    assert isinstance(question.model, SingleTaskGP)
    everywhere = torch.cat([question.candidates, question.baseline])
    posterior = question.model.posterior(everywhere)
    assert isinstance(posterior, GPyTorchPosterior)
    covariance = posterior.distribution.covariance_matrix.numpy()
    m = len(question.candidates)
    noise = float(question.model.likelihood.noise.mean())
    observed = np.sqrt(np.maximum(np.diag(covariance)[:m], 0.0) + noise)
    return log_knowledge_gradient(posterior.mean.squeeze(-1).numpy(), covariance[:m] / observed[:, None])


def _thompson(question: Question) -> Floats:
    """One draw of all gains together."""
    draw = question.model.posterior(question.candidates).rsample(torch.Size([1]))
    return np.asarray(draw.reshape(-1).numpy(), dtype=float)


def _noisy_hypervolume(question: Question) -> Floats:
    """What a candidate, with what is pending, adds to the front as the model sees it, not to the luckiest measurements."""
    with _without_compiler():
        acquisition = logei.qLogNoisyExpectedHypervolumeImprovement(
            question.model,
            ref_point=list(question.goal),
            X_baseline=question.baseline,
            sampler=_sampler(question, _SEVERAL_SAMPLES),
            X_pending=_pending(question),
            prune_baseline=True,
            cache_root=False,
        )
        return _in_chunks(acquisition, question.candidates)


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """BoTorch as it is in Python: else it compiles C++ at the first proposal, and says something else where no compiler is."""
    before = {name: getattr(logei, name, None) for name in ("_C", "_load_attempted")}
    logei._C, logei._load_attempted = None, True
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(logei, name, value)


def _noisy_parego(question: Question) -> Floats:
    """Noisy expected improvement of the augmented Chebyshev scalarisation with random weights."""
    acquisition = qLogNParEGO(
        question.model,
        X_baseline=question.baseline,
        sampler=_sampler(question),
        X_pending=_pending(question),
        prune_baseline=True,
        cache_root=False,
    )
    return _in_chunks(acquisition, question.candidates)


_ACQUISITIONS: Mapping[str, Callable[[Question], Floats]] = {
    "kg": _knowledge_gradient,
    "mes": _max_value_entropy,
    "jes": _joint_entropy,
    "ts": _thompson,
    "qlogei": _joint_expected_improvement,
    "qlognei": _noisy_expected_improvement,
    "qlognehvi": _noisy_hypervolume,
    "qlognparego": _noisy_parego,
}
