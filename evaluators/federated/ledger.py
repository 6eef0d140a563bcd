"""What training has cost so far, by device, on a virtual clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

MIB = 2**20


def _zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64)


@dataclass
class Ledger:
    """Sums over rounds; every tensor is ``(n,)`` float64, by device.

    Attributes:
        n: devices.
        seconds: on the clock that all share.
        down_bytes, up_bytes: received and sent.
        busy_s, sending_s, waiting_s: computing; on the link; done, and waiting for others.
        joules: of all that.
    """

    n: int
    seconds: float = 0.0
    down_bytes: Tensor = field(init=False)
    up_bytes: Tensor = field(init=False)
    busy_s: Tensor = field(init=False)
    sending_s: Tensor = field(init=False)
    waiting_s: Tensor = field(init=False)
    joules: Tensor = field(init=False)

    def __post_init__(self) -> None:
        for name in ("down_bytes", "up_bytes", "busy_s", "sending_s", "waiting_s", "joules"):
            setattr(self, name, _zeros(self.n))

    @property
    def traffic_mib(self) -> float:
        """Both directions of all devices."""
        return float(self.down_bytes.sum() + self.up_bytes.sum()) / MIB

    @property
    def upload_mib(self) -> float:
        return float(self.up_bytes.sum()) / MIB

    @property
    def download_mib(self) -> float:
        return float(self.down_bytes.sum()) / MIB

    @property
    def energy_j(self) -> float:
        return float(self.joules.sum())

    @property
    def idle_share(self) -> float:
        """Of the time of devices that took part, what they waited for others."""
        waiting = float(self.waiting_s.sum())
        whole = waiting + float(self.busy_s.sum() + self.sending_s.sum())
        return waiting / whole if whole else 0.0

    def add(self, who: Tensor, **by_device: Tensor) -> None:
        """Add to rows of the named tensors, ``(m,)`` each; a device may be named several times."""
        for name, values in by_device.items():
            getattr(self, name).index_add_(0, who, values.double())
