"""Which stage has which weights, and whole models from the weights of all stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.models import SequenceTransformer
from recsys.models.sparse_tables import sharded_weights
from recsys.train.communication import Group
from recsys.train.pipeline.grid import Grid, deal_blocks


def find_stages(name: str, blocks: Sequence[range]) -> tuple[int, ...]:
    """Stages that use a weight of a ``SequenceTransformer``, ascending.

    Args:
        name: of the weight.
        blocks: of each stage.
    """
    last = len(blocks) - 1
    module, _, rest = name.partition(".")
    if module == "blocks":
        number = int(rest.partition(".")[0])
        return tuple(stage for stage, own in enumerate(blocks) if number in own)
    if module == "item_embedding":  # input and output
        return 0, last
    if module == "relative_bias":  # every block adds it
        return tuple(range(last + 1))
    return (0,) if module in ("position_embedding", "type_embedding") else (last,)


class StageWeights:
    """The weights of a model by stages, of one rank's view; those split by rows are left aside.

    Attributes:
        own: weights by name that this rank's stage uses.
        owned: those of them that no earlier stage uses: what it has to tell the others.
        foreign: weights by name that it does not use.
        by_stages: names by the stages that use them, in the model's order, alike on all ranks.
    """

    def __init__(self, model: SequenceTransformer, grid: Grid) -> None:
        blocks = deal_blocks(model.config.blocks, grid.stages)
        apart = sharded_weights(model)
        weights = {name: part for name, part in model.named_parameters() if name not in apart}
        stages = {name: find_stages(name, blocks) for name in weights}
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        self._order = sorted(weights, key=lambda name: stages[name][0])  # stable
        self._owner = {name: stages[name][0] for name in weights}
        self.own = {n: part for n, part in weights.items() if grid.stage in stages[n]}
        self.owned = {n: part for n, part in self.own.items() if self._owner[n] == grid.stage}
        self.foreign = {n: part for n, part in weights.items() if n not in self.own}
        self.by_stages: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, used in stages.items():
            self.by_stages[used].append(name)

    def release(self, model: nn.Module) -> None:
        """Give the memory of weights back that other stages have."""
        for name in self.foreign:
            weight = model.get_parameter(name)
            weight.data = weight.data.new_empty(0)

    def start_whole(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Put weights of other stages, by name, into a model that had released them."""
        for name in self.foreign:
            model.get_parameter(name).data = weights[name]

    def gather(self, parts: Mapping[str, Tensor], replica: Group) -> dict[str, Tensor]:
        """Tensors of all weights on every rank of a replica.

        Args:
            parts: of ``owned``, by name, each shaped like its weight.
            replica: this rank among its stages.
        """
        return self._cut(replica.start_allgather(self._join(parts), "stages.gather")())

    def _join(self, parts: Mapping[str, Tensor]) -> Tensor:
        names = [name for name in self._order if name in self.owned]
        return torch.cat([parts[name].detach().flatten() for name in names])

    def _cut(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of ``flat``, in which the stages' weights follow each other."""
        sizes = [self._shapes[name].numel() for name in self._order]
        parts = zip(self._order, flat.split(sizes), strict=True)
        return {name: part.view(self._shapes[name]) for name, part in parts}
