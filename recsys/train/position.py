"""Where in an epoch a training stands, and how it goes on with another number of ranks."""

from __future__ import annotations

from recsys.config import Train
from recsys.train.batch_stream import BatchStream
from recsys.train.feed import Feed
from recsys.train.optimization import Schedule
from recsys.train.state import TrainingState


def take_over(state: TrainingState, feed: Feed, ranks: int) -> None:
    """Let ``ranks`` ranks go on with the epoch in which others left off."""
    if state.ranks not in (0, ranks) and state.step_in_epoch:
        start = feed.take_over(state.epoch, state.takeover, state.ranks, state.step_in_epoch)
        state.streams, state.used, state.step_in_epoch = start.streams, start.used, 0
    state.ranks = ranks


def count_steps(state: TrainingState, feed: Feed) -> int:
    """Steps of the epoch since its ranks began it or went on with it, the same on every rank."""
    if state.takeover is None:
        return feed.steps_per_epoch(state.epoch)
    return feed.steps_of_rest(state.epoch, state.takeover)


def open_epoch(state: TrainingState, feed: Feed) -> BatchStream:
    """This rank's batches from the next step to the epoch's end."""
    if state.takeover is None:
        return feed.epoch(state.epoch, skip=state.step_in_epoch)
    return feed.rest(state.epoch, state.takeover, state.step_in_epoch)


def plan_schedule(state: TrainingState, feed: Feed, settings: Train, ranks: int) -> Schedule:
    """The learning rate by the share of the training that is done, whoever has done it."""
    size = settings.gradient_accumulation
    epochs = range(settings.max_epochs)
    steps = [-(-feed.steps_per_epoch(epoch) // size) for epoch in epochs]
    left = sum(steps[state.epoch + 1 :])
    if state.epoch < len(steps):
        left += -(-(count_steps(state, feed) - state.step_in_epoch) // size)
    return Schedule.of(settings, sum(steps), ranks, sum(steps) - left - state.global_step)
