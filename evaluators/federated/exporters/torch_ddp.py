"""PyTorch's DistributedDataParallel: a Python file that registers a communication hook.

Names and rules are those of `torch/distributed/algorithms/ddp_comm_hooks` (default_hooks, powerSGD_hook, post_localSGD_hook),
`torch/distributed/algorithms/model_averaging/averagers.py` and `torch/distributed/optim/post_localSGD_optimizer.py` of PyTorch
2.13, and files are run with it in our tests.

Its hooks for 8 bits, in `quantization_hooks`, which PyTorch calls experimental, fail over gloo and are left alone.

A model has one hook. One that compresses sends every step's gradient; local steps send whole models after several. Where a
configuration has both, the one that saves more traffic is written.
"""

from __future__ import annotations

from autotune.errors import UsageError
from autotune.exporting import Exported
from evaluators.federated.exporters.subject import Chosen, by_device, commented

NAME = "torch-ddp"
SUMMARY = "a Python file with a communication hook for PyTorch's DistributedDataParallel"

_METHODS = ("fedavg", "diloco")
_FIRST_STEPS = 2  # that PowerSGD with error feedback has to leave to all-reduce
_SMALLEST_COLUMN = 1e-8  # keeps columns of zeros from becoming NaN

_HEAD = '''from __future__ import annotations

{imports}

BATCH = {batch}  # samples of a step of each process; 0: all that it has
LEARNING_RATE = {rate!r}
MOMENTUM = {momentum!r}  # Nesterov's


def prepare(
    model: DistributedDataParallel, optimizer: torch.optim.Optimizer, group: dist.ProcessGroup | None = None
) -> torch.optim.Optimizer:
    """Call it once, on every process, before the first step, and step the optimizer that it returns."""
'''

# Hooks that need no state, by compressor.
_HOOKS = {
    "none": "default_hooks.allreduce_hook",
    "half": "default_hooks.fp16_compress_hook",
}

_PLAIN = """    model.register_comm_hook(group, {hook})
    return optimizer
"""

_LOW_RANK = '''    state = powerSGD_hook.PowerSGDState(
        process_group=group,
        matrix_approximation_rank=rank(model),
        start_powerSGD_iter={first},
        min_compression_rate=1,
        use_error_feedback={feedback},
        warm_start=False,
        orthogonalization_epsilon={epsilon!r},
    )
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return optimizer


def rank(model: torch.nn.Module) -> int:
    """The rank with which the factors of all matrices together have {keep:g} of their numbers; at least 1."""
    shapes = [(len(p), p[0].numel()) for p in model.parameters() if p.requires_grad and p.dim() > 1]
    numbers, sides = sum(m * n for m, n in shapes), sum(m + n for m, n in shapes)
    return max(1, round({keep!r} * numbers / max(1, sides)))
'''

_LOCAL = """    state = PostLocalSGDState(
        process_group=group, subgroup=None, start_localSGD_iter=0, post_local_gradient_allreduce=False
    )
    model.register_comm_hook(state, post_localSGD_hook)
    # It averages first after as many steps as it waits for and one more.
    averager = PeriodicModelAverager(period={steps}, warmup_steps={steps} - 1, process_group=group)
    return PostLocalSGDOptimizer(optimizer, averager)
"""

_IMPORTS = {
    "plain": (
        "from torch.distributed.algorithms.ddp_comm_hooks import default_hooks",
        "from torch.nn.parallel import DistributedDataParallel",
    ),
    "low-rank": (
        "from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook",
        "from torch.nn.parallel import DistributedDataParallel",
    ),
    "local": (
        "from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook",
        "from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager",
        "from torch.distributed.optim import PostLocalSGDOptimizer",
        "from torch.nn.parallel import DistributedDataParallel",
    ),
}


def write(chosen: Chosen, stem: str) -> Exported:
    """The hook that fits, or local steps.

    Raises:
        UsageError: for methods without a mean of all processes, and compressors that PyTorch has no hook for.
    """
    del stem
    settings = chosen.settings
    if settings.method not in _METHODS:
        raise UsageError(
            f"PyTorch's DistributedDataParallel averages over all processes, and this is method={settings.method}; export a "
            f"trial of method={' or '.join(_METHODS)}, or as plan-json"
        )
    if settings.compressor not in (*_HOOKS, "low-rank") and settings.local_steps == 1:
        raise UsageError(
            f"PyTorch has no hook for compressor={settings.compressor}, only for {', '.join(_HOOKS)} and low-rank; export a "
            "trial with one of these or local_steps above 1, or as plan-json"
        )
    local = _is_local(chosen)
    kind = "local" if local else "low-rank" if settings.compressor == "low-rank" else "plain"
    imports = ["import torch", "import torch.distributed as dist", *_IMPORTS[kind]]
    head = _HEAD.format(
        imports="\n".join(imports),
        batch=settings.batch,
        rate=settings.learning_rate * (1.0 if local else settings.server_rate),
        momentum=0.0 if local else settings.server_momentum,
    )
    cannot = limits(chosen, local=local)
    notes = [
        *chosen.told(),
        "yours: the process group, the model, the data, and",
        "  optimizer = SGD(model.parameters(), LEARNING_RATE, MOMENTUM, nesterov=MOMENTUM > 0)",
        "  optimizer = prepare(ddp_model, optimizer)",
    ]
    lines = commented("Communication of a DistributedDataParallel model, PyTorch 2", notes, cannot)
    comment = "".join(f"# {line}\n" for line in lines)
    return Exported(f"{comment}\n{head}{_body(chosen, kind)}", ".py", cannot)


def _is_local(chosen: Chosen) -> bool:
    """Whether local steps save more than the hook, by traffic of float32 gradients over that of either."""
    settings = chosen.settings
    saved = {"half": 2.0, "low-rank": 1.0 / settings.upload_keep}.get(settings.compressor, 1.0)
    return settings.local_steps > saved


def _body(chosen: Chosen, kind: str) -> str:
    settings = chosen.settings
    if kind == "local":
        return _LOCAL.format(steps=settings.local_steps)
    if kind == "low-rank":
        return _LOW_RANK.format(
            first=max(_first_steps(chosen), settings.warmup_rounds * settings.local_steps),
            feedback=settings.feedback == "ef",
            epsilon=_SMALLEST_COLUMN,
            keep=settings.upload_keep,
        )
    return _PLAIN.format(hook=_HOOKS[settings.compressor])


def _first_steps(chosen: Chosen) -> int:
    return _FIRST_STEPS if chosen.settings.feedback == "ef" else 0


def limits(chosen: Chosen, *, local: bool) -> tuple[str, ...]:
    """What it cannot express."""
    found = _local_limits(chosen) if local else _hook_limits(chosen)
    settings = chosen.settings
    if settings.fragments > 1:
        found.append(f"fragments={settings.fragments}: whole models are averaged")
    if settings.adapter_rank:
        found.append(f"adapter_rank={settings.adapter_rank}: adapters are the model's own")
    found.append("averages weighted by samples: every process weighs alike")
    return (*found, *by_device(chosen, compressed=not local))


def _local_limits(chosen: Chosen) -> list[str]:
    settings = chosen.settings
    found = []
    if settings.compressor != "none":
        found.append(
            f"compressor={settings.compressor}: models go in float32, after every {settings.local_steps} local steps"
        )
    if settings.server_rate != 1.0 or settings.server_momentum:
        found.append(
            f"server_rate={settings.server_rate:g} with server_momentum={settings.server_momentum:g}: models become their "
            "mean, without a step of a server"
        )
    return found


def _hook_limits(chosen: Chosen) -> list[str]:
    settings = chosen.settings
    found = []
    if settings.local_steps > 1:
        found.append(
            f"local_steps={settings.local_steps}: gradients are exchanged after every step, so that a sample takes "
            f"{settings.local_steps} times the traffic"
        )
    if settings.compressor == "half":
        found += _half_limits(chosen)
    if settings.compressor == "low-rank":
        found += _low_rank_limits(chosen)
    return found


def _half_limits(chosen: Chosen) -> list[str]:
    settings = chosen.settings
    found = ["values beyond float16's range: they become infinite, where they were clamped"]
    if settings.feedback != "none":
        found.append(f"feedback={settings.feedback}: fp16_compress_hook remembers nothing of what it rounds")
    if settings.warmup_rounds:
        found.append(f"warmup_rounds={settings.warmup_rounds}: gradients are halved from the first step on")
    return found


def _low_rank_limits(chosen: Chosen) -> list[str]:
    settings = chosen.settings
    found = [
        f"upload_keep={settings.upload_keep:g} of each matrix: PowerSGD has one rank for all, with which they have that share "
        "together, and factors the mean gradient in place of each device's",
    ]
    if settings.feedback not in ("none", "ef"):
        found.append(f"feedback={settings.feedback}: PowerSGD's is error feedback or none; written none")
    if settings.warmup_rounds:
        found.append(f"warmup_rounds={settings.warmup_rounds}: ratios do not fall; gradients go whole until then")
    elif _first_steps(chosen):
        found.append(f"the first {_FIRST_STEPS} steps: gradients go whole, as DistributedDataParallel sorts them anew")
    return found
