"""The softmax over a catalogue that is split over all ranks, in a pipeline: once a batch.

All ranks score all states against their own items, so all have to be there at the same moment, and
under 1F1B no two stages ever are. So all micro-batches go forward first (GPipe); then the last
stages hand their states round, as ranks without stages do; then all go backward. Of the scores a
rank holds a chunk of positions at a time, of all ranks' states and of their gradients those of a
batch.

Source: Huang et al. 2019, "GPipe", section 2.3, for the schedule; see ``sharding.softmax`` for the
scores.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from recsys.train.objectives import Wanted
from recsys.train.sharding.softmax import sharded_softmax_loss
from recsys.train.sharding.table import ShardedItemTable


class LateSoftmax:
    """The losses of one batch at a time, known when all its micro-batches have gone forward.

    Args:
        table: this rank's part of the items.
        autocast: in which scores are made.
    """

    def __init__(
        self, table: ShardedItemTable, autocast: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._table, self._autocast = table, autocast
        self._states: list[Tensor] = []
        self._gradients: tuple[Tensor, ...] = ()

    def keep(self, states: Tensor) -> Tensor:
        """What to go backward from instead of the loss of the next micro-batch, float [].

        Args:
            states: at its targets, float [targets, dims].
        """
        number = len(self._states)
        self._states.append(states.detach())
        # The gradient of the sum makes room for that of the losses, which ``measure`` finds.
        states.register_hook(lambda _: self._gradients[number])
        return states.sum()

    def measure(self, wanted: Wanted | None, divisor: float) -> Tensor:
        """The sum of the losses of the kept states, float32 []; called by all ranks together.

        The gradient of the table's part is left in it.

        Args:
            wanted: the targets of the kept states, in their order; None: there are none.
            divisor: of the losses in gradients.
        """
        table = self._table
        states = torch.cat(self._states or [table.weight.detach()[:0]]).requires_grad_()
        targets = torch.zeros(0, dtype=torch.int64) if wanted is None else wanted.targets
        weights = None if wanted is None else wanted.weights
        with self._autocast():
            loss = sharded_softmax_loss(
                states,
                table.weight,
                targets.to(states.device),
                None if weights is None else weights.to(states.device),
                table.owners,
            )
        (loss / divisor).backward()
        assert states.grad is not None
        self._gradients = states.grad.split([len(part) for part in self._states])
        self._states = []
        return loss.detach()


class LateStage(PipelineStage):
    """A stage that does something after all forward passes, before the first backward one.

    Args:
        between: what it does; all stages do it at this point, and wait for each other in it.
        given: see ``PipelineStage``.
    """

    def __init__(self, between: Callable[[], None], *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._between = between

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[Any]:
        """Asked for by the schedule before it waits for the gradient of a micro-batch."""
        if bwd_chunk_id == 0:
            self._between()
        return list(super().get_bwd_recv_ops(bwd_chunk_id))
