"""What devices send: a compressor with its ratios by device and round, and what becomes of what it drops."""

from __future__ import annotations

from torch import Tensor

from autotune.errors import UsageError
from evaluators.federated.compressors import COMPRESSORS, make
from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.feedback import Feedback, make_feedback
from evaluators.federated.rules import upload_keep, warmed
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import FLOAT_BYTES, Tensors
from evaluators.federated.world import World


def make_compressor(settings: Settings, tensors: Tensors, *, scaled: bool) -> Compressor:
    """The compressor of these settings.

    Args:
        scaled: whether random coordinates are scaled up, so that their mean is right; with a memory of what was dropped
            they must not be.
    """
    if settings.compressor == "rand-k":
        return make("rand-k", tensors, scaled=scaled)
    if settings.compressor == "fedzip":
        return make("fedzip", tensors, clusters=settings.clusters)
    return make(settings.compressor, tensors)


def unbiased_compressor(settings: Settings, tensors: Tensors) -> tuple[Compressor, float]:
    """The compressor of a method that needs one whose mean is right, and its variance omega.

    Raises:
        UsageError: for a compressor that has no unbiased form.
    """
    compressor = make_compressor(settings, tensors, scaled=True)
    omega = compressor.omega(settings.upload_keep)
    if not compressor.unbiased or omega is None:
        able = ", ".join(name for name, kind in COMPRESSORS.items() if kind.unbiased)
        raise UsageError(
            f"compressor {settings.compressor!r} has no unbiased form, which method {settings.method!r} needs; use {able}"
        )
    return compressor, omega


class Uploads:
    """Compresses the updates of a round's devices.

    Args:
        scaled: see `make_compressor`; as the feedback needs it where None.
    """

    def __init__(self, world: World, settings: Settings, tensors: Tensors, *, scaled: bool | None = None) -> None:
        self.world = world
        self.settings = settings
        alone = settings.feedback == "none" if scaled is None else scaled
        self.compressor = make_compressor(settings, tensors, scaled=alone)
        self._whole = make("none", tensors)
        self.feedback: Feedback = make_feedback(
            settings.feedback,
            world.n,
            tensors.size,
            strength=settings.feedback_strength,
            momentum=settings.momentum,
        )

    def keep(self, round_: int, who: Tensor) -> Tensor:
        """The ratio of every device in this round, ``(m,)``."""
        most = upload_keep(self.settings.upload_keep, self.settings.importance_share, self.world.importance[who])
        return warmed(most, round_, self.settings.warmup_rounds)

    def send(self, round_: int, who: Tensor, update: Tensor, use: int = 0) -> tuple[Tensor, Tensor]:
        """What the server takes for the updates ``(m, size)``, and the bytes that each device sent, ``(m,)``.

        Args:
            use: tells several messages of one round apart.
        """
        keep = self.keep(round_, who)
        estimate, sent = self.feedback.send(who, update, lambda rows: self.compress(round_, who, rows, keep, use))
        return estimate, sent.bytes

    def compress(self, round_: int, who: Tensor, rows: Tensor, keep: Tensor, use: int = 0) -> Sent:
        """What devices put on the wire for rows ``(m, size)`` at ratios ``(m,)``; a compressor without a ratio begins after the
        warm-up."""
        early = not self.compressor.rated and round_ < self.settings.warmup_rounds
        return (self._whole if early else self.compressor).compress(rows, keep, self.world.seeds(round_, who, use))

    def expected_bytes(self, round_: int, who: Tensor, size: int) -> Tensor:
        """About what each device will send, ``(m,)``, before it is known."""
        return FLOAT_BYTES * size * self.keep(round_, who)
