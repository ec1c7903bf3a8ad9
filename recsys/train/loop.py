"""The training loop, the same on one process and on many ranks.

The gradient of a step is that of (sum of losses over all ranks) / (weight of all ranks' targets):
every rank divides its own sum by the common weight, and the exchange adds gradients up. So N ranks
train like one rank with an N times larger batch, also where windows or ranks have unequal shares.
(With local SGD a step is each rank's own, see ``exchange``.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from recsys.models import Recommender
from recsys.train.agreement import check_agreement
from recsys.train.batch import Batch, group_batches
from recsys.train.checkpoint import CheckpointStore, fitting
from recsys.train.commits import Commits
from recsys.train.communication import Communicator
from recsys.train.feed import Feed
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.pipeline import make_learner
from recsys.train.position import count_steps, open_epoch, plan_schedule, take_over
from recsys.train.progress import ProgressReport
from recsys.train.search import NeverPrune, Pruner
from recsys.train.state import TrainingState
from recsys.train.tracking import Tracker
from recsys.train.trained import save_trained

FLUSH_STEPS = 25
"""Steps between two reductions of losses over ranks (and records of the tracker)."""


class Trainer:
    """One rank's training of one job."""

    def __init__(
        self,
        job: TrainingJob,
        communicator: Communicator,
        feed: Feed,
        tracker: Tracker,
        pruner: Pruner | None = None,
        commits: Commits | None = None,
    ) -> None:
        self.job, self.communicator, self.feed, self.tracker = job, communicator, feed, tracker
        self.pruner, self.commits = pruner or NeverPrune(), commits
        self.settings = job.settings.train
        self.learner = make_learner(job, communicator)
        self.objective = self.learner.objective
        self.state = TrainingState()
        self.checkpoints = CheckpointStore(Path(job.checkpoint_dir), job.identity)
        self._resume()
        self._sent_before = self.state.sent_bytes
        self.learner.synchronize()
        check_agreement(job, feed, communicator)
        readers = self.learner.readers.size
        take_over(self.state, feed, readers)
        self.schedule = plan_schedule(self.state, feed, self.settings, readers)
        self.progress = ProgressReport(communicator.rank, self.settings.max_epochs)
        self._pending: list[Tensor] = []

    def run(self) -> TrainingResult:
        """Train until patience or epochs run out, keep the best weights, and report."""
        self.started = time.perf_counter() - self.state.seconds
        if self.state.global_step == 0:
            self.objective.examine(self.feed, self.communicator)
        run_id = self.tracker.start(self.state.run_id) if self.communicator.rank == 0 else ""
        self.state.run_id = self.communicator.broadcast_object(run_id)
        self.learner.use_popularity(self.feed, is_fresh=self.state.global_step == 0)
        while not self._is_finished():
            self._train_epoch()
            self._validate_epoch()
            self._ask_pruner()
            self._save_checkpoint()
        return self._finish()

    def _is_finished(self) -> bool:
        state, settings = self.state, self.settings
        waited = state.epoch - 1 - state.best_epoch
        out_of_patience = state.best_epoch >= 0 and waited >= settings.patience
        return state.pruned or out_of_patience or state.epoch >= settings.max_epochs

    def _train_epoch(self) -> None:
        state, settings = self.state, self.settings
        steps = count_steps(state, self.feed)
        accumulation = settings.gradient_accumulation
        done = -(-state.step_in_epoch // accumulation)
        self.progress.start_epoch(state.epoch, -(-steps // accumulation), done)
        self.learner.model.train()
        seconds, waited = state.train_seconds, state.waited_seconds
        started = time.perf_counter()
        with open_epoch(state, self.feed) as batches:
            for group in group_batches(batches, accumulation):
                self.train_step(group)
                if state.global_step % FLUSH_STEPS == 0:
                    self._flush()
                save = state.global_step % settings.checkpoint_every_steps == 0
                commit = self.commits and state.global_step % settings.commit_every_steps == 0
                if save or commit:
                    self._flush()
                    state.train_seconds = seconds + time.perf_counter() - started
                    state.waited_seconds = waited + batches.waited_seconds
                    self._agree()
                    self._save_checkpoint(to_disk=save)
            self._flush()
            state.train_seconds = seconds + time.perf_counter() - started
            state.waited_seconds = waited + batches.waited_seconds

    def train_step(self, batches: list[Batch]) -> None:
        """One step of the optimizer on the gradients of some batches."""
        state = self.state
        learning_rate = self.schedule.at(state.global_step)
        self._pending.append(self.learner.step(batches, state.global_step, learning_rate))
        state.global_step += 1
        state.step_in_epoch += len(batches)
        state.sent_bytes = self._sent_before + self.learner.sent_bytes

    def _flush(self) -> None:
        """Add up pending sums over ranks: one message for many steps, and no wait for a GPU."""
        if not self._pending:
            return
        own = torch.stack(self._pending).cpu()
        self._pending.clear()
        sums = self.communicator.allreduce_sum(own)
        loss, weight, count = sums.sum(dim=0).tolist()
        first = self.state.global_step - len(sums)
        self.state.epoch_loss += loss
        self.state.epoch_weight += weight
        self.state.events += count
        if self.communicator.rank == 0:
            means = (sums[:, 0] / sums[:, 1].clamp_min(1e-9)).tolist()
            steps = range(first, first + len(means))
            self.tracker.log_steps(
                [
                    (step, {"loss": mean, "lr": self.schedule.at(step)})
                    for step, mean in zip(steps, means, strict=True)
                ]
            )
        self.progress.step(loss / (weight or 1.0), int(count), len(sums))

    def _validate_epoch(self) -> None:
        state = self.state
        self._agree()
        with self.feed.validation() as batches:
            metrics = self.objective.validate(self.learner.average, batches, self.communicator)
        figures = {"train_loss": state.epoch_loss / (state.epoch_weight or 1.0), **metrics}
        state.history.append(figures)
        judged = self.objective.main_metric
        if state.best_epoch < 0 or self.objective.is_better(
            metrics[judged], state.best_metrics[judged]
        ):
            state.best_epoch, state.best_metrics = state.epoch, metrics
            self.learner.keep_best()
        if self.communicator.rank == 0:
            self.tracker.log_epoch(state.epoch, figures)
        speed = state.events / max(1e-9, state.train_seconds)
        self.progress.end_epoch(state.epoch, {**figures, "events_per_second": speed})
        state.end_epoch()

    def _ask_pruner(self) -> None:
        """Whether to go on: rank 0 asks, and all ranks do as it was told."""
        state, judged = self.state, self.objective.main_metric
        answer = False
        if self.communicator.rank == 0:
            answer = self.pruner.should_stop(state.epoch - 1, state.history[-1][judged])
        state.pruned = bool(self.communicator.broadcast_object(answer))

    def _agree(self) -> None:
        self.learner.agree()
        self.state.sent_bytes = self._sent_before + self.learner.sent_bytes

    def _save_checkpoint(self, to_disk: bool = True) -> None:
        """What a training goes on from: on the disk, and in memory if ranks may come and go."""
        if to_disk:
            self.learner.save_parts(self.state.global_step)
        to_disk = to_disk and self.communicator.rank == 0
        if not to_disk and self.commits is None:
            return
        self.state.seconds = time.perf_counter() - self.started
        content = {"state": asdict(self.state), **self.learner.state_dict()}
        if to_disk:
            self.checkpoints.save(self.state.global_step, content)
        if self.commits is not None:
            self.commits.keep(content)

    def _resume(self) -> None:
        """Continue from the last commit, which rank 0 sends, or the newest checkpoint.

        Rank 0 says which one that is, and all read it: a message holds 2 GiB at most.
        """
        first = self.communicator.rank == 0
        committed = self.commits.last() if first and self.commits else None
        saved = self.checkpoints.load() if first and committed is None else None
        step = None if saved is None else saved["state"]["global_step"]
        content, step = self.communicator.broadcast_object((committed, step))
        if step is not None:
            content = saved or self.checkpoints.read(step)
        if content is not None:
            self.state = TrainingState(**content["state"])
            with fitting(self.job):
                self.learner.load_state_dict(content, self.state.global_step)

    def _finish(self) -> TrainingResult:
        state, job = self.state, self.job
        waited = torch.tensor([state.waited_seconds, state.train_seconds], dtype=torch.float64)
        waited_all, seconds_all = self.communicator.allreduce_sum(waited).tolist()
        self.learner.use_best()
        last = self.objective.finish(self.learner.model, self.feed, self.communicator)
        result = TrainingResult(
            fingerprint=job.fingerprint,
            run_id=state.run_id,
            bundle_dir="" if state.pruned else job.bundle_dir,
            epochs=state.epoch,
            best_epoch=state.best_epoch,
            metrics={**state.best_metrics, **last},
            global_steps=state.global_step,
            events=int(state.events),
            seconds=time.perf_counter() - self.started,
            events_per_second=state.events / max(1e-9, state.train_seconds),
            wait_share=waited_all / max(1e-9, seconds_all),
            sent_bytes_per_step=state.sent_bytes / max(1, state.global_step),
            pruned=state.pruned,
        )
        whole = self.learner.collect()
        if self.communicator.rank == 0:
            self._write(result, whole)
        self.communicator.barrier()
        self.learner.close()
        return result

    def _write(self, result: TrainingResult, model: Recommender) -> None:
        if not result.pruned:
            save_trained(self.job, model, result)
        self.tracker.finish(result, self.state.history)
        result.save(self.job.result_path)
        self.checkpoints.clear()
        self.learner.remove_parts()


FeedFactory = Callable[[TrainingJob, Communicator], Feed]


def run_training(
    job: TrainingJob,
    communicator: Communicator,
    tracker: Tracker,
    make_feed: FeedFactory,
    pruner: Pruner | None = None,
    commits: Commits | None = None,
) -> TrainingResult:
    """Train ``job`` as one rank of ``communicator``; every rank calls this and gets the same.

    Args:
        job: what to train; a checkpoint in its folder with the same identity is continued.
        communicator, tracker: this rank; the tracker is used on rank 0 only.
        make_feed: ``worker.make_feed`` (Petastorm), or one that gives an ``InMemoryFeed``.
        pruner: asked on rank 0 after each epoch; None lets every training end by itself.
        commits: of a training whose ranks may come and go.

    Raises:
        TrainingError: data is missing or unreadable, or ranks outnumber row groups.
        TrackingError: MLflow can't be reached; the checkpoint stays.
    """
    feed = make_feed(job, communicator)
    return Trainer(job, communicator, feed, tracker, pruner, commits).run()
