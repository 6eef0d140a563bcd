"""Our fitted Gaussian process as a model of BoTorch, whose acquisitions then work on what was learned here.

BoTorch maximises and we minimise, so the model is one of *gains*: ``(centre - y) / scale``, with y the warped loss. In these
units the prior variance of a point without guides is 1, which is what BoTorch's numerical floors are made for. Nothing is
fitted again: length scales, noise and the weights of guides are those of our posterior, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from botorch import settings
from botorch.models import SingleTaskGP
from gpytorch.kernels import Kernel, LinearKernel, MaternKernel
from gpytorch.means import ZeroMean

from autotune.strategies.bo.gp import GaussianProcess

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GainModel:
    """A posterior over gains.

    Attributes:
        model: of BoTorch; its inputs are features and then guides, shape ``(..., q, f + k)``.
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


def gain_model(gp: GaussianProcess) -> GainModel:
    """The same posterior in BoTorch.

    Args:
        gp: of at least one feature column.
    """
    parts = gp.standardised()
    f, k = parts.features.shape[1], parts.guides.shape[1]
    kernel: Kernel = MaternKernel(nu=2.5, ard_num_dims=f, active_dims=tuple(range(f))).double()
    kernel.lengthscale = torch.from_numpy(parts.length_scales)
    if k:
        slopes = LinearKernel(ard_num_dims=k, active_dims=tuple(range(f, f + k))).double()
        slopes.variance = torch.from_numpy(parts.guide_variances)
        kernel = kernel + slopes
    with settings.validate_input_scaling(False):  # guides are not in [0, 1], and need not be
        model = SingleTaskGP(
            inputs(parts.features, parts.guides),
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
