"""Gradients of a pipeline: each weight's are added up over the ranks that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from torch import nn
from torch.optim import Optimizer

from recsys.train.communication import Communicator, Group
from recsys.train.exchange import Exchange
from recsys.train.exchange.contract import Compressor
from recsys.train.exchange.gradients import CompressedGradients, WholeSum, start_sum_of_weights
from recsys.train.exchange.quantized import Bf16Sum, Fp16Sum
from recsys.train.pipeline.grid import Grid
from recsys.train.pipeline.weights import StageWeights

_COMPRESSORS: dict[str, type[Compressor]] = {"none": WholeSum, "fp16": Fp16Sum, "bf16": Bf16Sum}
_TABLE = "item_embedding."


class Sum(NamedTuple):
    """Of some weights over some ranks.

    Attributes:
        exchange: of these ranks.
        passes: backward passes of a batch that reach the weights.
    """

    exchange: CompressedGradients
    passes: int


class StageGradients(Exchange):
    """Sums over process sets: the ranks of one stage, or of all stages that share a weight.

    The item table is input and output: the ranks of the first and the last stage share it.

    Args:
        readers: this rank among those of its stage, whose batches differ.
        sums: of this rank.

    Attributes:
        groups: of the sums.
    """

    def __init__(self, readers: Group, sums: Sequence[Sum]) -> None:
        super().__init__(readers)
        self._sums = sums
        self.groups = [part.exchange.communicator for part in sums]

    def attach(self, optimizer: Optimizer, model: nn.Module, backwards: int) -> Optimizer:
        for part in self._sums:
            part.exchange.attach(optimizer, model, backwards * part.passes)
        return optimizer

    def start_divisor(self, own_weight: float) -> Callable[[], float]:
        return start_sum_of_weights(self.communicator, own_weight)

    @contextmanager
    def reduced(self, optimizer: Optimizer) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self._sums:
                stack.enter_context(part.exchange.reduced(optimizer))
            yield


def make_stage_gradients(
    communicator: Communicator,
    grid: Grid,
    weights: StageWeights,
    compression: str,
    micro_batches: int,
) -> StageGradients:
    """Called by all ranks together, as process sets are made.

    Args:
        compression: ``none``, ``fp16`` or ``bf16``.
        micro_batches: of a batch.
    """
    readers = split_stages(communicator, grid)
    sums = []
    for stages, names in weights.by_stages.items():
        group = communicator.split([grid.ranks_of_stages(stages)])
        if grid.stage not in stages or group.size == 1:
            continue
        # The table's gradient is made once a batch (see ``schedule.TouchedVectors``).
        of_table = {name for name in names if name.startswith(_TABLE)}
        for chosen, passes in ((of_table, 1), (set(names) - of_table, micro_batches)):
            exchange = CompressedGradients(group, _COMPRESSORS[compression](group), chosen)
            sums.append(Sum(exchange, passes))
    return StageGradients(readers, sums)


def split_stages(communicator: Communicator, grid: Grid) -> Group:
    """This rank among those of its stage; called by all ranks together."""
    return communicator.split([grid.ranks_of_stages([stage]) for stage in range(grid.stages)])
