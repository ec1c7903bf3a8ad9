"""Where a training stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys.train.plan import Takeover


@dataclass
class TrainingState:
    """Where training stands, in plain values: what a checkpoint holds besides tensors.

    Attributes:
        epoch, step_in_epoch: the next step to take; of an epoch that another number of ranks
            began, ``step_in_epoch`` counts since these went on.
        ranks: number of those whose batches differ (``Learner.readers``); 0 before the first step.
        streams, used: see ``plan.Takeover``; 0 where ``ranks`` began the epoch.
        global_step: steps taken.
        epoch_loss, epoch_weight: sums of the epoch so far over all ranks' targets.
        events: targets trained on so far, all ranks.
        sent_bytes: payload that rank 0 has sent in gradients or weights.
        train_seconds, waited_seconds: spent in training epochs; of those, waiting for data.
        seconds: wall clock of finished parts, validation included.
        best_epoch, best_metrics: the best validation so far; epoch -1 is none yet.
        history: one entry an epoch: figures by name.
        run_id: MLflow run.
        pruned: the search that this is a trial of has ended it.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    ranks: int = 0
    streams: int = 0
    used: int = 0
    global_step: int = 0
    epoch_loss: float = 0.0
    epoch_weight: float = 0.0
    events: float = 0.0
    sent_bytes: int = 0
    train_seconds: float = 0.0
    waited_seconds: float = 0.0
    seconds: float = 0.0
    best_epoch: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    run_id: str = ""
    pruned: bool = False

    @property
    def takeover(self) -> Takeover | None:
        """Where these ranks went on with the epoch; None where they began it."""
        return Takeover(self.streams, self.used) if self.used else None

    def end_epoch(self) -> None:
        """Turn to the first step of the next epoch."""
        self.epoch, self.step_in_epoch, self.streams, self.used = self.epoch + 1, 0, 0, 0
        self.epoch_loss = self.epoch_weight = 0.0
