"""A search for settings: Optuna proposes, trainings are its trials, poor ones end early.

The only importer of Optuna, and only where a search runs. The proposals are those of TPE (Bergstra
et al. 2011, "Algorithms for hyper-parameter optimization"), drawn at random for the first trials.
A trial ends early where its best epoch is worse than the median of the complete trials at the same
epoch, after the median stopping rule of Golovin et al. 2017, "Google Vizier".
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from recsys.config import Choice, Range, Space
from recsys.train.job import TrialKey

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

RUNNING, COMPLETE, PRUNED, FAILED = "running", "complete", "pruned", "failed"
_RANDOM_TRIALS = 5
_COMPLETE_BEFORE_PRUNING, _EPOCHS_BEFORE_PRUNING = 2, 1
_LOCK_SECONDS = 60


class Pruner(Protocol):
    """Ends a training early; asked on rank 0 alone."""

    def should_stop(self, epoch: int, value: float) -> bool:
        """Whether to stop after ``epoch`` (from 0), whose main metric was ``value``."""


class NeverPrune:
    """Of a training that is no trial."""

    def should_stop(self, epoch: int, value: float) -> bool:
        return False


class TrialPruner:
    """Tells the search how the trial does, and asks it.

    Args:
        key: of the trial.
    """

    def __init__(self, key: TrialKey) -> None:
        import optuna

        self._storage, self._pruner = _open_storage(key.storage), _make_pruner()
        self._study = optuna.load_study(study_name=key.study, storage=self._storage)
        self._trial_id = _find_id(self._storage, key.study, key.number)

    def should_stop(self, epoch: int, value: float) -> bool:
        if not math.isfinite(value):
            return True
        self._storage.set_trial_intermediate_value(self._trial_id, epoch, value)
        return self._pruner.prune(self._study, self._storage.get_trial(self._trial_id))


@dataclass(frozen=True)
class Trial:
    """One try.

    Attributes:
        number: from 0.
        values: of the settings searched, by dotted key.
        state: running (also: cut off), complete, pruned or failed.
        value: main metric of the best epoch; of a pruned trial, of its last one; None: none.
        epochs, seconds: trained.
        reason: why it was pruned or failed, or whose result it repeats.
    """

    number: int
    values: dict[str, Any]
    state: str
    value: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""


class Search:
    """All trials of one search, kept in a database: a search that was cut off goes on.

    What a trial tries depends on the seed, its number and the trials before it alone, so two
    commands that do two trials each do the same as one that does four.

    Args:
        storage: url of the database, e.g. ``sqlite:////lake/_search/search.db``.
        name: the same name goes on with the trials that are there.
        space: what to try.
        higher_is_better: of the main metric.
        seed: of the proposals.
    """

    def __init__(
        self, storage: str, name: str, space: Space, higher_is_better: bool, seed: int
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.url, self.name, self.space, self.seed = storage, name, space, seed
        self.higher_is_better = higher_is_better
        self._storage = _open_storage(storage)
        self._study = optuna.create_study(
            study_name=name,
            storage=self._storage,
            direction="maximize" if higher_is_better else "minimize",
            load_if_exists=True,
        )

    @property
    def run_id(self) -> str:
        """MLflow run of the search; empty before ``set_run_id``."""
        return str(self._study.user_attrs.get("run_id", ""))

    def set_run_id(self, run_id: str) -> None:
        """Keep the MLflow run, with which a later command goes on."""
        self._study.set_user_attr("run_id", run_id)

    def key(self, trial: Trial) -> TrialKey:
        """For the job of a trial."""
        return TrialKey(self.url, self.name, trial.number, self.run_id)

    def trials(self) -> list[Trial]:
        """All trials so far, by number."""
        found = self._study.get_trials(deepcopy=False)
        return [_describe(trial, self.space) for trial in found]

    def ranked(self) -> list[Trial]:
        """All trials: complete ones, best first, then pruned ones, best first, then the rest."""
        states, sign = (COMPLETE, PRUNED, FAILED, RUNNING), -1 if self.higher_is_better else 1

        def order(trial: Trial) -> tuple[int, float, int]:
            value = math.inf if trial.value is None else sign * trial.value
            return states.index(trial.state), value, trial.number

        return sorted(self.trials(), key=order)

    def best(self) -> Trial | None:
        """The best complete trial; None before the first one."""
        first = next(iter(self.ranked()), None)
        return first if first and first.state == COMPLETE else None

    def next_trial(self) -> Trial:
        """The trial that was cut off, or else a new one."""
        known = self.trials()
        for trial in known:
            if trial.state == RUNNING and trial.values.keys() == self.space.keys():
                return trial
            if trial.state == RUNNING:
                self.finish(dataclasses.replace(trial, state=FAILED, reason="was cut off"))
        self._study.sampler = _make_sampler(self.seed, len(known))
        asked = self._study.ask(_make_distributions(self.space))
        return self.trials()[asked.number]

    def finish(self, trial: Trial) -> None:
        """Keep what became of a running trial."""
        from optuna.trial import TrialState

        trial_id = _find_id(self._storage, self.name, trial.number)
        for name in ("epochs", "seconds", "reason"):
            self._storage.set_trial_user_attr(trial_id, name, getattr(trial, name))
        states = {
            COMPLETE: TrialState.COMPLETE,
            PRUNED: TrialState.PRUNED,
            FAILED: TrialState.FAIL,
        }
        value = trial.value if trial.state == COMPLETE else None
        self._study.tell(trial.number, value, states[trial.state])


def _describe(found: FrozenTrial, space: Space) -> Trial:
    from optuna.trial import TrialState

    states = {
        TrialState.COMPLETE: COMPLETE,
        TrialState.PRUNED: PRUNED,
        TrialState.FAIL: FAILED,
    }
    state = states.get(found.state, RUNNING)
    values = {key: _shorten(found.params[key], space[key]) for key in space if key in found.params}
    return Trial(found.number, values, state, found.value, **found.user_attrs)


def _shorten(value: Any, tried: Choice | Range) -> Any:
    """Numbers of four digits: nobody wants to copy more, and no model tells the difference."""
    if isinstance(tried, Choice) or tried.whole or tried.step is not None:
        return value
    return min(max(float(f"{value:.4g}"), tried.low), tried.high)


def _find_id(storage: RDBStorage, study: str, number: int) -> int:
    study_id = storage.get_study_id_from_name(study)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def _open_storage(url: str) -> RDBStorage:
    from optuna.storages import RDBStorage

    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}})


def _make_pruner() -> BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(_COMPLETE_BEFORE_PRUNING, _EPOCHS_BEFORE_PRUNING)


def _make_sampler(seed: int, number: int) -> BaseSampler:
    """A sampler of its own for each trial: one for all would begin anew after a restart."""
    from optuna.samplers import TPESampler

    own = np.random.SeedSequence([seed % (1 << 63), number]).generate_state(1)[0]
    return TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=int(own))


def _make_distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for key, values in space.items():
        if isinstance(values, Choice):
            found[key] = CategoricalDistribution(values.values)
        elif values.whole:
            low, high, step = int(values.low), int(values.high), int(values.step or 1)
            found[key] = IntDistribution(low, high, values.log, step)
        else:
            found[key] = FloatDistribution(values.low, values.high, values.log, values.step)
    return found
