"""How an expert lies in memory, so that a share of it is one run of bytes.

A SwiGLU expert is ``down^T (silu(gate x) * (up x))``: a sum over its f intermediate rows, to which row i contributes gate_i,
up_i and column i of down alone. With these three side by side, row by row, the first rows are a smaller expert of their own
(the *top segment* of a split), and the outputs of the parts add up to the whole's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autotune.errors import UsageError

# Direct I/O moves whole blocks, and 4 KiB is a multiple of every block size in use. The same on every tier, so that a split
# means the same bytes on each.
BLOCK = 4096

DTYPES = {16.0: torch.bfloat16, 32.0: torch.float32}


@dataclass(frozen=True)
class ExpertLayout:
    """One expert: ``inter x 3 x hidden`` numbers, gate, up and transposed down of a row together.

    Args:
        hidden, inter: h and f of the expert.
        dtype: of its weights.
    """

    hidden: int
    inter: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.inter < 1:
            raise UsageError(f"an expert of hidden {self.hidden} and intermediate {self.inter} has no weights")

    @property
    def row_bytes(self) -> int:
        return 3 * self.hidden * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return self.inter * self.row_bytes

    @property
    def stride(self) -> int:
        """Bytes from one expert to the next: `nbytes` in whole blocks."""
        return -(-self.nbytes // BLOCK) * BLOCK

    @property
    def quantum(self) -> int:
        """Rows of the smallest top segment, so that it ends with a block."""
        return BLOCK // math.gcd(self.row_bytes, BLOCK)

    def top_rows(self, theta: float) -> int:
        """Rows of the top segment at split `theta`: whole quanta, rounded down so that no budget is exceeded."""
        if theta >= 1.0:
            return self.inter
        return min(self.inter, int(theta * self.inter / self.quantum + 1e-9) * self.quantum)

    def segment_bytes(self, first: int, stop: int) -> int:
        """Bytes to move for rows `first` to `stop`: whole blocks where the expert ends."""
        return (self.stride if stop == self.inter else stop * self.row_bytes) - first * self.row_bytes

    def rows_of(self, buffer: Tensor, rows: int) -> Tensor:
        """The first `rows` rows in a byte buffer, as ``rows x 3 x hidden``."""
        return buffer[: rows * self.row_bytes].view(self.dtype).view(rows, 3, self.hidden)

    def pack(self, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """Weights ``inter x hidden``, ``inter x hidden`` and ``hidden x inter`` in this layout."""
        shapes = (tuple(gate.shape), tuple(up.shape), tuple(down.shape))
        if shapes != ((self.inter, self.hidden), (self.inter, self.hidden), (self.hidden, self.inter)):
            raise UsageError(
                f"expert weights of the shapes {shapes} are not of hidden {self.hidden}, inter {self.inter}"
            )
        return torch.stack((gate, up, down.t()), dim=1).to(self.dtype).contiguous()


def feed_forward(rows: Tensor, x: Tensor) -> Tensor:
    """What the rows ``r x 3 x hidden`` of an expert make of ``tokens x hidden``: their share of its output."""
    gate, up, down = rows[:, 0], rows[:, 1], rows[:, 2]
    return (functional.silu(x @ gate.t()) * (x @ up.t())) @ down
