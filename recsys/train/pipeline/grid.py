"""Where a rank stands: which replica of the model it belongs to, and which stage of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Grid:
    """Ranks as replicas times stages; the stages of a replica have neighbouring ranks.

    Launchers fill one machine after the other. So states and their gradients, of which every
    micro-batch sends some, stay within a machine as far as they can, and the sums of gradients, one
    a step, go between machines.

    Attributes:
        rank, ranks: this process and their number, a multiple of ``stages``.
        stages: of each replica.
    """

    rank: int
    ranks: int
    stages: int

    @property
    def stage(self) -> int:
        """Of this rank, from 0."""
        return self.rank % self.stages

    @property
    def replica(self) -> int:
        """That this rank belongs to, from 0."""
        return self.rank // self.stages

    @property
    def replicas(self) -> int:
        """How many models train together, each on its own batches."""
        return self.ranks // self.stages

    @property
    def is_first(self) -> bool:
        """Whether items become states here."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether the losses are measured here."""
        return self.stage == self.stages - 1

    @property
    def neighbors(self) -> list[int]:
        """Ranks that this one sends to and receives from."""
        return [self.rank + step for step in (-1, 1) if 0 <= self.stage + step < self.stages]

    def ranks_of_stages(self, stages: Collection[int]) -> list[int]:
        """Ranks of some stages in all replicas."""
        return [rank for rank in range(self.ranks) if rank % self.stages in stages]

    def ranks_of_replica(self, replica: int) -> list[int]:
        """Ranks of all stages of a replica."""
        return list(range(replica * self.stages, (replica + 1) * self.stages))


def deal_blocks(blocks: int, stages: int) -> list[range]:
    """Blocks of each stage, as even as can be; the last, which has the losses, has the fewest."""
    starts = [-(-blocks * stage // stages) for stage in range(stages + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]
