"""Our fitted Gaussian process as a model of BoTorch, whose acquisitions then work on what was learned here.

BoTorch maximises and we minimise, so the model is one of *gains*: ``(centre - y) / scale``, with y the warped loss. In these
units the prior variance of a point without guides is 1, which is what BoTorch's numerical floors are made for. Nothing is
fitted again: length scales, noise and the weights of guides are those of our posterior, in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from botorch import settings
from botorch.models import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from gpytorch.kernels import Kernel, LinearKernel, MaternKernel
from gpytorch.means import ZeroMean

from autotune.strategies.bo.gp import GaussianProcess

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GainModel:
    """A posterior over gains.

    Attributes:
        model: of BoTorch; its inputs are features and then guides, shape ``(..., q, f + k)``, and what `gain_model` was told
            to leave room for.
        centre, scale: of warped losses; see `gains`.
    """

    model: SingleTaskGP
    centre: float
    scale: float

    def gains(self, losses: npt.ArrayLike) -> Floats:
        """Warped losses as gains, shape as given."""
        gains: Floats = (self.centre - np.asarray(losses, dtype=float)) / self.scale
        return gains

    def losses(self, gains: npt.ArrayLike) -> Floats:
        """Gains as warped losses, shape as given."""
        losses: Floats = self.centre - self.scale * np.asarray(gains, dtype=float)
        return losses


def gain_model(gp: GaussianProcess, *, before: int = 0, after: int = 0) -> GainModel:
    """The same posterior in BoTorch.

    Args:
        gp: of at least one feature column.
        before, after: columns of inputs on either side of its own, which it does not look at.
    """
    parts = gp.standardised()
    f, k = parts.features.shape[1], parts.guides.shape[1]
    kernel: Kernel = MaternKernel(nu=2.5, ard_num_dims=f, active_dims=tuple(range(before, before + f))).double()
    kernel.lengthscale = torch.from_numpy(parts.length_scales)
    if k:
        places = tuple(range(before + f, before + f + k))
        slopes = LinearKernel(ard_num_dims=k, active_dims=places).double()
        slopes.variance = torch.from_numpy(parts.guide_variances)
        kernel = kernel + slopes
    with settings.validate_input_scaling(False):  # guides are not in [0, 1], and need not be
        model = SingleTaskGP(
            torch.nn.functional.pad(inputs(parts.features, parts.guides), (before, after)),
            -torch.from_numpy(parts.targets)[:, None],
            torch.from_numpy(parts.noise)[:, None],
            covar_module=kernel,
            mean_module=ZeroMean(),
            outcome_transform=None,
        )
    model.requires_grad_(False)
    model.eval()
    return GainModel(model, parts.centre, parts.scale)


def inputs(features: Floats, guides: Floats) -> torch.Tensor:
    """What a `GainModel` takes of points: shapes ``(m, f)`` and ``(m, k)`` to ``(m, f + k)``."""
    return torch.from_numpy(np.concatenate([features, guides], axis=1))


def gain_models(gps: Sequence[GaussianProcess]) -> tuple[SingleTaskGP | ModelListGP, tuple[GainModel, ...]]:
    """One model of the independent gains of every objective, and each of them alone; the same one where there is one.

    The inputs are those of each, side by side, since each may lean on guides of its own; see `side_by_side`. BoTorch draws from
    such a model as from one distribution. From a list of posteriors it would draw each gain by a Sobol sequence of its own, and
    these go up and down together, which independent gains do not (meta-pytorch/botorch, issue 2658).
    """
    widths = [sum(part.shape[1] for part in (gp.standardised().features, gp.standardised().guides)) for gp in gps]
    models = tuple(gain_model(gp, before=sum(widths[:i]), after=sum(widths[i + 1 :])) for i, gp in enumerate(gps))
    return models[0].model if len(models) == 1 else ModelListGP(*[one.model for one in models]), models


def side_by_side(columns: Sequence[tuple[Floats, Floats]]) -> torch.Tensor:
    """Inputs of several models, each as by `inputs`, as `gain_models` wants them; shape ``(m, sum of f + k)``."""
    return torch.cat([inputs(features, guides) for features, guides in columns], dim=-1)
