"""`Machine`: how kernels and links work beside each other, and what the methods of some papers change about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autotune.errors import UsageError


@dataclass(frozen=True)
class Machine:
    """The constants of the model, the same for all layouts.

    Attributes:
        attention: time of attention kernels over those of the tables.
        elementwise: memory traffic of elementwise kernels over that of fused ones.
        attention_backward: time of attention's backward over its forward pass.
        memory_share: of the memory's bandwidth that elementwise kernels reach.
        kernel_s: what launching a layer's kernels costs beside what they do.
        tensor_hidden: share of the tensor-parallel traffic that products hide.
        tensor_behind: share of it that may hide wholly behind products, as far as these last.
        data_hidden: share of the passes that data-parallel traffic can hide behind.
        contention: share of hidden data-parallel traffic by which computation beside it takes longer.
        late_gradients: whether gradients are used one synchronisation later, and may travel until then.
        optimizer_behind: whether an offloaded optimizer works beside the backward pass.
    """

    attention: float = 1.0
    elementwise: float = 1.0
    attention_backward: float = 3.0
    memory_share: float = 0.8
    kernel_s: float = 1e-4
    tensor_hidden: float = 0.5
    tensor_behind: float = 0.0
    data_hidden: float = 0.8
    contention: float = 0.1
    late_gradients: bool = False
    optimizer_behind: bool = False

    def overlapping(self, method: str) -> Machine:
        """The same machine with a method's overlap; reconstructions from what their papers say hides what.

        ``t3`` (arXiv:2401.16677) hides the reduce-scatters, half of the tensor-parallel traffic, behind the products that make
        their input. ``ladder`` (arXiv:2501.06589) uses a block's result one block later, so that all of it hides. ``co2``
        (arXiv:2401.16265) uses gradients one synchronisation later. ``fuyou`` (arXiv:2403.06504) lets an offloaded optimizer
        work beside the backward pass.

        Raises:
            UsageError: for an unknown method.
        """
        methods = {
            "standard": self,
            "t3": replace(self, tensor_behind=0.5),
            "ladder": replace(self, tensor_behind=1.0),
            "co2": replace(self, late_gradients=True),
            "fuyou": replace(self, optimizer_behind=True),
        }
        if method not in methods:
            raise UsageError(f"overlap {method!r} is unknown; use {', '.join(methods)}")
        return methods[method]


FUSED = Machine()
# PyTorch as it comes, without compilation: norms, activations and the loss are kernels of their own.
EAGER = Machine(attention=1.3, elementwise=2.0, contention=0.5)
