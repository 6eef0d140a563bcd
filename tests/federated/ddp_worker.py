"""One process of a gloo group that trains with exported files: ``python ddp_worker.py RANK WORLD FOLDER``.

Every ``*.py`` of the folder is imported and used; the parameters after each step go to ``rank{RANK}.pt``.
"""

from __future__ import annotations

import importlib.util
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

STEPS = 7


def network() -> nn.Module:
    """The same on every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 10))


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """Samples of a process in a step."""
    generator = torch.Generator().manual_seed(1_000 * rank + step)
    return torch.randn(8, 24, generator=generator), torch.randint(0, 10, (8,), generator=generator)


def flat(model: nn.Module) -> Tensor:
    """All parameters, ``(size,)``."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def load(path: Path) -> ModuleType:
    """The file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(module: ModuleType, rank: int) -> Tensor:
    """Parameters after each step, ``(steps, size)``."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), module.LEARNING_RATE, module.MOMENTUM, nesterov=module.MOMENTUM > 0)
    optimizer = module.prepare(model, optimizer)
    points = []
    for step in range(STEPS):
        x, y = batch(rank, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        points.append(flat(model))
    return torch.stack(points)


def main(rank: int, world: int, folder: Path) -> None:
    """Train with each file."""
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(minutes=2))
    try:
        found = {path.stem: trained(load(path), rank) for path in sorted(folder.glob("*.py"))}
        torch.save(found, folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
