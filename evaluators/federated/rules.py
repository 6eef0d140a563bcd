"""Caesar's rules: how much is sent to and by each device, and how large its batches are (arXiv:2412.19989).

The download's ratio and the rank rule of the upload are the paper's, as two independent write-ups have them; how volume and
label divergence make an importance, and the batch rule's formula, are reconstructions. Ratios here are what is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor


def download_keep(freshest: float, away: Tensor, round_: int) -> Tensor:
    """What each device gets of the model: ``1 - (1 - away / t) * (1 - freshest)``, the whole model when it is new.

    Args:
        freshest: kept for a device that was there in the round before, in (0, 1].
        away: ``(m,)`` rounds since each last took part, 1 for the round before; `round_` for one that never did.
        round_: counted from 1.
    """
    share = (away.double() / round_).clamp(0.0, 1.0)
    return 1.0 - (1.0 - share) * (1.0 - freshest)


def importance(volumes: Tensor, divergence: Tensor, volume_weight: float = 0.5) -> Tensor:
    """How much a device's update matters, in [0, 1]: many samples, and labels like everyone's.

    Args:
        volumes: ``(n,)`` samples.
        divergence: ``(n,)`` KL(labels of the device, labels of all), at least 0.
        volume_weight: of the volume; the rest is of the labels.
    """
    most = divergence.max().clamp_min(torch.finfo(torch.float64).tiny)
    return volume_weight * volumes / volumes.max() + (1.0 - volume_weight) * (1.0 - divergence / most)


def upload_keep(most: float, least_share: float, important: Tensor) -> Tensor:
    """What each device keeps of its update: `most` for the most important, falling by rank to `least_share` of that.

    Args:
        important: ``(m,)`` of the devices of a round.
    """
    m = len(important)
    if m == 1:
        return torch.full((1,), most, dtype=torch.float64)
    rank = torch.empty(m, dtype=torch.float64)
    rank[torch.argsort(important, descending=True, stable=True)] = torch.arange(m, dtype=torch.float64)
    return most * (1.0 - (1.0 - least_share) * rank / (m - 1))


def balanced_batches(batch: int, step_s: Tensor, sample_s: Tensor, sending_s: Tensor, steps: int) -> Tensor:
    """Batches with which all devices end with the one that is done first at full batch; at least one sample.

    Args:
        step_s, sample_s: ``(m,)`` seconds of a step: what it takes at all, and for each sample.
        sending_s: ``(m,)`` seconds of a round on the link.
    """
    whole = sending_s + steps * (step_s + batch * sample_s)
    room = (whole.min() - sending_s) / steps - step_s
    # Subtracting must not cost the fastest device a sample by rounding.
    return torch.where(whole == whole.min(), batch, (room / sample_s).floor().clamp(1, batch).long())


def warmed(keep: Tensor, round_: int, warmup_rounds: int) -> Tensor:
    """Ratios on their way down: ``keep ** ((t + 1) / (warmup + 1))`` in round t, counted from 0 (Deep Gradient Compression's
    schedule: 25 %, 6.25 %, ... where `keep` is a power of a quarter)."""
    if round_ >= warmup_rounds:
        return keep
    return keep ** ((round_ + 1) / (warmup_rounds + 1))
