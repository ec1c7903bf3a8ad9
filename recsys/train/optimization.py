"""Parts of a training step: precision, learning rate, optimizer."""

from __future__ import annotations

import math
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.config import Train
from recsys.models.sparse_tables import common_weights, sharded_weights, sparse_weights
from recsys.train.communication import Communicator
from recsys.train.row_optimizer import SplitOptimizer, make_row_optimizer, touched_rows


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then decay to a share of the learning rate.

    ``kind``: ``cosine`` (Loshchilov and Hutter 2017, equation 5, without restarts), ``linear``,
    or ``constant``, which does not decay.

    ``ahead``: steps by which the schedule is ahead of the steps taken (or behind, if negative),
    after ranks whose number has changed have taken longer or shorter ones.
    """

    learning_rate: float
    warmup_steps: int
    total_steps: int
    final_share: float
    kind: str = "cosine"
    ahead: int = 0

    @classmethod
    def of(cls, settings: Train, total_steps: int, ranks: int = 1, ahead: int = 0) -> Schedule:
        """As the settings say; warm-up takes half of the steps at most.

        ``ranks`` scale the learning rate, as the batch is so many times larger: linear is Goyal et
        al. 2017, section 2.1; the root is for Adam, Malladi et al. 2022, section 4.
        """
        scale = {"none": 1.0, "sqrt": ranks**0.5, "linear": float(ranks)}
        return cls(
            settings.learning_rate * scale[settings.learning_rate_scaling],
            min(settings.warmup_steps, total_steps // 2),
            total_steps,
            settings.final_learning_rate_share,
            settings.schedule,
            ahead,
        )

    def at(self, step: int) -> float:
        """Learning rate of optimizer step ``step``, from 0."""
        step += self.ahead
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.learning_rate
        decay_steps = max(1, self.total_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / decay_steps)
        left = 1.0 - done if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.learning_rate * (self.final_share + (1.0 - self.final_share) * left)


def make_optimizer(model: nn.Module, settings: Train) -> Optimizer:
    """Adam, AdamW or SGD; weight decay is for matrices alone, not for norms and biases.

    Tables that are sparse or split have an optimizer of their own beside it (``SplitOptimizer``).

    Source: Kingma and Ba 2015; Loshchilov and Hutter 2019 for AdamW; Sutskever et al. 2013,
    section 2, for Nesterov momentum.
    """
    rest = _make_dense_optimizer(list(common_weights(model).values()), settings)
    sparse, sharded = list(sparse_weights(model).values()), list(sharded_weights(model).values())
    if sparse:
        return SplitOptimizer(rest, make_row_optimizer(sparse, settings), bool(sharded))
    if sharded:
        return SplitOptimizer(rest, _make_dense_optimizer(sharded, settings), split=True)
    return rest


def _make_dense_optimizer(weights: list[nn.Parameter], settings: Train) -> Optimizer:
    groups: list[dict[str, Any]] = [
        {
            "params": [weight for weight in weights if weight.ndim > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = settings.learning_rate
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=rate, momentum=settings.momentum, nesterov=settings.momentum > 0
        )
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    # Fused: one pass over each weight, without copies of it.
    return kind(groups, lr=rate, fused=True)


def clip_gradients(model: nn.Module, largest: float, communicator: Communicator) -> None:
    """Scale all gradients down in place where their L2 norm in all is above ``largest``.

    Sparse ones (coalesced) count with their rows, which is what a dense one would have; of tables
    that are split over ranks the parts of all ranks count.
    """
    own: list[Tensor] = []
    common: list[Tensor] = []
    sharded = {id(weight) for weight in sharded_weights(model).values()}
    for weight in model.parameters():
        if weight.grad is None:
            continue
        values = touched_rows(weight.grad)[1] if weight.grad.is_sparse else weight.grad
        part = values.detach()
        part.grad = values
        (own if id(weight) in sharded else common).append(part)
    if not sharded:
        torch.nn.utils.clip_grad_norm_(common, largest)
        return
    norms = [torch.nn.utils.get_total_norm(parts).double() for parts in (own, common)]
    squares = communicator.allreduce_sum(norms[0].square()[None])[0] + norms[1].square()
    torch.nn.utils.clip_grads_with_norm_([*own, *common], largest, squares.sqrt().float())


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """``auto`` takes the local rank's GPU where there is one."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % max(1, torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return device


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Type of matrix products; ``auto`` is bf16 on a GPU and float32 on a CPU."""
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


def is_emulated(precision: torch.dtype, device: torch.device) -> bool:
    """Whether a processor has no instructions for a type, and takes several times as long with it.

    Of x86 those without AVX-512 have none; of others nothing is known here.
    """
    return (
        precision != torch.float32
        and device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    )


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Matrix products in ``precision``; weights, sums and norms stay in float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def step_seed(seed: int, global_step: int, rank: int) -> int:
    """Seed of one step's dropout on one rank: no state, so that a resumed run repeats it."""
    mixed = (seed * 1_000_003 + global_step) * 1_000_003 + rank
    return mixed & 0x7FFF_FFFF_FFFF_FFFF
