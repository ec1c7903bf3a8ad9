"""The trials of a search, one after the other: each proposed, trained, and its outcome kept."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

from recsys.errors import ConfigError, TrainingError
from recsys.train.job import TrainingResult
from recsys.train.search import COMPLETE, FAILED, PRUNED, RUNNING, Search, Trial


def run_search(
    search: Search,
    train: Callable[[Trial], tuple[TrainingResult, float]],
    trials: int,
    timeout_seconds: float | None = None,
    say: Callable[[Trial], None] = lambda _: None,
) -> None:
    """Try until there are ``trials`` trials, those of earlier commands included.

    Args:
        search: its trials so far stay as they are.
        train: trains a trial; gives the result and its main metric.
        trials: how many in all.
        timeout_seconds: after which no trial is begun; None: no limit.
        say: told of each trial as it begins and as it ends.

    Raises:
        TrainingError: a training failed before any had worked; later ones count as failed.
    """
    started = time.monotonic()
    while sum(trial.state != RUNNING for trial in search.trials()) < trials:
        if timeout_seconds is not None and time.monotonic() - started >= timeout_seconds:
            return
        trial = search.next_trial()
        say(trial)
        search.finish(_find_twin(search, trial) or _try(search, trial, train))
        say(search.trials()[trial.number])


def _find_twin(search: Search, trial: Trial) -> Trial | None:
    """The outcome of an earlier trial of the same values: training again would repeat it."""
    for other in search.trials():
        if other.state in (COMPLETE, PRUNED) and other.values == trial.values:
            repeats = other.reason or f"repeats trial {other.number}"
            return dataclasses.replace(other, number=trial.number, seconds=0.0, reason=repeats)
    return None


def _try(
    search: Search, trial: Trial, train: Callable[[Trial], tuple[TrainingResult, float]]
) -> Trial:
    try:
        result, value = train(trial)
    except ConfigError as error:  # values that contradict each other
        return dataclasses.replace(trial, state=PRUNED, reason=error.what)
    except TrainingError as error:
        failed = dataclasses.replace(trial, state=FAILED, reason=error.what)
        if any(other.state in (COMPLETE, PRUNED) for other in search.trials()):
            return failed
        search.finish(failed)
        raise
    trained = dataclasses.replace(trial, epochs=result.epochs, seconds=result.seconds)
    if not math.isfinite(value):
        reason = f"diverged: its validation is {value}"
        return dataclasses.replace(trained, state=PRUNED, reason=reason)
    state = PRUNED if result.pruned else COMPLETE
    return dataclasses.replace(trained, state=state, value=value)
