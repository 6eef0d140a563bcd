"""Caesar's download: large weights as they are, the rest as signs, recovered with the weights that the device still has.

As two open re-implementations of Caesar (arXiv:2412.19989) have it: of every tensor the largest `keep` by magnitude are sent
in float32; of the others the sign, and two numbers for all of them, the mean and the largest magnitude. The device keeps its
old weight where that has the sign and is no larger than the largest, and takes the mean with the sign elsewhere.

On the wire: one byte for the form; then either all numbers in float32, where that is shorter, or a bitmap of what is sent in
float32, the two numbers of every tensor, the signs of the others, and the numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evaluators.federated.compressors.base import Sent
from evaluators.federated.tensors import FLOAT_BYTES, Tensors

_FORM_BYTES = 1
_WHOLE, _SPLIT = b"\x00", b"\x01"
_ROUNDING = 1e-12  # 0.07 * 100 is 7.000000000000001, and still means 7
_SCALES = 2  # of a tensor: mean and largest magnitude of what is sent as signs


class LowDeviation:
    """Sends models, of one layout, to devices that have older ones."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def payload_bytes(self, kept: Tensor) -> Tensor:
        """Length of the payload, ``(m,)`` int64, where `kept` numbers are sent in float32."""
        size = self.tensors.size
        split = -(-size // 8) + _SCALES * FLOAT_BYTES * len(self.tensors.sizes) + (size - kept + 7) // 8
        return _FORM_BYTES + torch.minimum(split + FLOAT_BYTES * kept, torch.full_like(kept, FLOAT_BYTES * size))

    def recover(self, model: Tensor, old: Tensor, keep: Tensor) -> Sent:
        """What devices make of the model.

        Args:
            model: ``(size,)`` of the server.
            old: ``(m, size)``, what each device has.
            keep: ``(m,)``, the share of every tensor that is sent in float32.
        """
        kept, means, largest = self._parts(model, keep)
        lengths = self.payload_bytes(kept.sum(dim=1))
        whole = lengths == _FORM_BYTES + FLOAT_BYTES * self.tensors.size
        sign = torch.where(model > 0, 1.0, -1.0)  # one bit: zero counts as negative
        near = (torch.sign(old) == sign) & (old.abs() <= largest)
        guessed = torch.where(near, old, sign * means)
        values = torch.where(kept | whole[:, None], model, guessed)
        return Sent(values, lengths)

    def encode(self, model: Tensor, keep: float) -> bytes:
        """The payload for one device; see the module for its form."""
        kept, means, largest = (part[0] for part in self._parts(model, torch.tensor([keep], dtype=torch.float64)))
        split = int(self.payload_bytes(kept.sum()[None])[0]) < _FORM_BYTES + FLOAT_BYTES * self.tensors.size
        numbers = model.numpy().astype("<f4")
        if not split:
            return _WHOLE + numbers.tobytes()
        starts = np.cumsum([0, *self.tensors.sizes[:-1]])
        scales = np.stack([means.numpy()[starts], largest.numpy()[starts]], axis=1).astype("<f4")
        mask = kept.numpy()
        positive = numbers[~mask] > 0
        return b"".join(
            [
                _SPLIT,
                np.packbits(mask).tobytes(),
                scales.tobytes(),
                np.packbits(positive).tobytes(),
                numbers[mask].tobytes(),
            ]
        )

    def decode(self, payload: bytes, old: Tensor) -> Tensor:
        """The model ``(size,)`` that a device makes of a payload and of the model ``(size,)`` that it has."""
        size, tensors = self.tensors.size, len(self.tensors.sizes)
        if payload[:_FORM_BYTES] == _WHOLE:
            return torch.from_numpy(np.frombuffer(payload, "<f4", offset=_FORM_BYTES).astype(np.float32))
        place = _FORM_BYTES
        mask = np.unpackbits(np.frombuffer(payload, np.uint8, -(-size // 8), place), count=size).astype(bool)
        place += -(-size // 8)
        scales = np.frombuffer(payload, "<f4", _SCALES * tensors, place).reshape(tensors, _SCALES)
        place += _SCALES * FLOAT_BYTES * tensors
        others = size - int(mask.sum())
        positive = np.unpackbits(np.frombuffer(payload, np.uint8, -(-others // 8), place), count=others).astype(bool)
        place += -(-others // 8)
        means, largest = (np.repeat(scales[:, part], self.tensors.sizes)[~mask] for part in (0, 1))
        sign = np.where(positive, 1.0, -1.0).astype(np.float32)
        had = old.numpy()[~mask]
        values = np.empty(size, dtype=np.float32)
        values[mask] = np.frombuffer(payload, "<f4", offset=place)
        values[~mask] = np.where((np.sign(had) == sign) & (np.abs(had) <= largest), had, sign * means)
        return torch.from_numpy(values)

    def _parts(self, model: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(m, size)`` each: what is sent in float32; the mean and the largest magnitude of a tensor's others."""
        kept, means, largest = [], [], []
        for part in self.tensors.split(model.abs()):
            size = part.numel()
            ordered, order = torch.sort(part, descending=True, stable=True)
            counts = (keep * size * (1 - _ROUNDING)).ceil().clamp(1, size).long()
            place = torch.empty_like(order)
            place[order] = torch.arange(size)
            kept.append(place[None, :] < counts[:, None])
            below = torch.cat([ordered, ordered.new_zeros(1)])
            largest.append(below[counts][:, None].expand(-1, size))
            # From the smallest up, so that no large number swallows them.
            tails = torch.cat([ordered.double().flip(0).cumsum(0).flip(0), ordered.new_zeros(1).double()])
            mean = tails[counts] / (size - counts).clamp_min(1)
            means.append(mean.float()[:, None].expand(-1, size))
        return torch.cat(kept, dim=1), torch.cat(means, dim=1), torch.cat(largest, dim=1)
