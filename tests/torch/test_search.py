"""A search on tiny windows: real trainings, Optuna's database, nested runs in MLflow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from recsys.config import Choice, Range, Space, with_values
from recsys.errors import TrackingError, TrainingError
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingResult, TrialKey
from recsys.train.launch import find_result
from recsys.train.loop import run_training
from recsys.train.objectives.next_item_ranks import NDCG
from recsys.train.runs import Run
from recsys.train.search import COMPLETE, FAILED, PRUNED, RUNNING, Search, Trial
from recsys.train.search_report import draw_search
from recsys.train.trials import run_search
from recsys.train.worker import make_pruner, make_tracker
from tests.training_tables import make_job, make_table, memory_feed

pytestmark = pytest.mark.torch

HOPELESS = 1e-7
SPACE: Space = {
    "train.learning_rate": Choice((0.02, HOPELESS)),
    "model.dropout": Range(0.0, 0.2, False, None, False),
}
LONGER = ["train.max_epochs=5", "train.patience=5", "tracking.experiment=nightly-search"]
Train = Callable[[Trial], tuple[TrainingResult, float]]


def open_search(folder: Path, space: Space = SPACE, seed: int = 1) -> Search:
    return Search(f"sqlite:///{folder / 'search.db'}", "a search", space, True, seed)


@pytest.fixture(scope="module")
def make_train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Train]:
    """Trains the trials of a search with the real loop, pruner and tracker."""
    table, contents = make_table(
        tmp_path_factory.mktemp("table"), files={9: [60, 60]}, validation={9: [20]}, write=False
    )

    def make(search: Search, folder: Path, uri: str | None = None) -> Train:
        def train(trial: Trial) -> tuple[TrainingResult, float]:
            job = make_job(folder / str(trial.number), table, *LONGER, uri=uri)
            settings = with_values(job.settings, trial.values)
            job = dataclasses.replace(job, settings=settings, trial=search.key(trial))
            alone = SingleProcess()
            tracker, pruner = make_tracker(job, alone), make_pruner(job, alone)
            result = run_training(job, alone, tracker, memory_feed(contents), pruner)
            assert find_result(job) == result
            assert Path(job.bundle_dir).exists() == (not result.pruned)
            return result, result.metrics[NDCG]

        return train

    return make


@pytest.fixture(scope="module")
def searched(
    make_train: Callable[..., Train], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Search, Path]:
    """Six trials in two commands, the first of which did two."""
    folder = tmp_path_factory.mktemp("search")
    uri = f"sqlite:///{folder}/mlflow.db"
    before: list[Trial] = []
    for trials in (2, 6):
        search = open_search(folder)
        run = Run.begin(uri, 5, "nightly-search", "search", search.run_id)
        search.set_run_id(run.run_id)
        assert search.trials()[:2] == before
        run_search(search, make_train(search, folder, uri), trials)
        before = search.trials()[:2]
        best = search.best()
        assert best is not None
        picture = folder / "search.png"
        draw_search(search.trials(), search.space, NDCG, True, picture)
        run.end(tags={"best_trial": str(best.number)}, metrics=[], files=[picture])
    return search, folder


def test_the_good_one_wins_and_the_hopeless_end_early(searched: tuple[Search, Path]) -> None:
    search = searched[0]
    assert [trial.number for trial in search.trials()] == list(range(6))
    good = [t for t in search.trials() if t.values["train.learning_rate"] != HOPELESS]
    hopeless = [t for t in search.trials() if t not in good]
    best = search.best()
    assert best in good
    assert best is not None
    assert best.value == max(t.value or 0.0 for t in search.trials())
    pruned = [t for t in hopeless if t.state == PRUNED]
    assert pruned
    assert all(t.epochs == 2 for t in pruned)  # after the first one nothing is pruned
    assert all(t.epochs == 5 for t in search.trials() if t.state == COMPLETE)
    states = [t.state for t in search.ranked()]
    assert states == sorted(states)  # complete before pruned
    values = [t.value or 0.0 for t in search.ranked() if t.state == COMPLETE]
    assert values == sorted(values, reverse=True)


def test_two_commands_try_what_one_would(searched: tuple[Search, Path], tmp_path: Path) -> None:
    known = {t.number: t for t in searched[0].trials()}

    def repeat(trial: Trial) -> tuple[TrainingResult, float]:
        then = known[trial.number]
        result = TrainingResult("f", "", "", 1, 0, {}, 1, 1, 1.0, 1.0, 0.0, then.state == PRUNED)
        return result, then.value or 0.0

    first, second = open_search(tmp_path), open_search(tmp_path)
    run_search(first, repeat, 3)
    run_search(second, repeat, 5)
    values = [t.values for t in second.trials()]
    assert values[:5] == [known[number].values for number in range(5)]
    other = Search(f"sqlite:///{tmp_path}/other.db", "a search", SPACE, True, 2)
    run_search(other, repeat, 5)
    assert [t.values for t in other.trials()] != values


def test_trials_are_runs_inside_the_searchs(searched: tuple[Search, Path]) -> None:
    search, folder = searched
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    parent = client.get_run(search.run_id)
    best = search.best()
    assert best is not None
    assert (parent.info.status, parent.data.tags["best_trial"]) == ("FINISHED", str(best.number))
    assert [file.path for file in client.list_artifacts(search.run_id)] == ["search.png"]
    inside = f"tags.`mlflow.parentRunId` = '{search.run_id}'"
    runs = client.search_runs([parent.info.experiment_id], inside)
    by_name = {run.info.run_name: run for run in runs}
    assert len(runs) == len(by_name) == 6
    for trial in search.trials():
        run = by_name[f"trial {trial.number}"]
        assert float(run.data.params["model.dropout"]) == trial.values["model.dropout"]
        assert run.info.status == ("KILLED" if trial.state == PRUNED else "FINISHED")
        assert (run.data.tags.get("outcome") == "pruned") == (trial.state == PRUNED)
    assert not client.search_logged_models([parent.info.experiment_id])  # settings, not models


def test_a_trial_that_was_cut_off_is_tried_again(
    make_train: Callable[..., Train], tmp_path: Path
) -> None:
    def cut_off(trial: Trial) -> tuple[TrainingResult, float]:
        raise KeyboardInterrupt

    search = open_search(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_search(search, cut_off, 1)
    (left,) = search.trials()
    assert left.state == RUNNING
    again = open_search(tmp_path)
    run_search(again, make_train(again, tmp_path), 1)
    (done,) = again.trials()
    assert (done.number, done.values, done.state) == (left.number, left.values, COMPLETE)


def finished(trial: Trial) -> tuple[TrainingResult, float]:
    return TrainingResult("f", "", "", 3, 2, {}, 9, 9, 1.0, 1.0, 0.0), 0.5


def test_contradictions_count_as_pruned_with_the_reason(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path, files={9: [4]}, validation={9: [4]}, write=False)
    settings = make_job(tmp_path, table).settings
    search = open_search(tmp_path, {"model.heads": Choice((2, 3))})

    def train(trial: Trial) -> tuple[TrainingResult, float]:
        assert with_values(settings, trial.values).model.heads == 2  # 3 does not divide 16
        return finished(trial)

    run_search(search, train, 8)
    reasons = {t.values["model.heads"]: (t.state, t.reason) for t in reversed(search.trials())}
    assert reasons[3] == (PRUNED, "model.heads=3 must divide model.dims=16")
    assert reasons[2] == (COMPLETE, "")
    repeated = search.trials()[-1]  # nothing is trained a second time
    assert repeated.reason.startswith(("repeats trial", "model.heads=3"))


def test_failures_count_unless_nothing_has_worked(tmp_path: Path) -> None:
    def fail(trial: Trial) -> tuple[TrainingResult, float]:
        if trial.number != 1:
            raise TrainingError("rank 1 of 2 was killed by SIGKILL")
        return finished(trial)

    space: Space = {"model.dropout": SPACE["model.dropout"]}
    search = open_search(tmp_path, space)
    with pytest.raises(TrainingError, match="SIGKILL"):
        run_search(search, fail, 3)
    run_search(search, fail, 3)
    assert [t.state for t in search.trials()] == [FAILED, COMPLETE, FAILED]
    assert search.trials()[2].reason == "rank 1 of 2 was killed by SIGKILL"

    def lose_server(trial: Trial) -> tuple[TrainingResult, float]:
        raise TrackingError("MLflow failed")

    with pytest.raises(TrackingError):
        run_search(search, lose_server, 4)
    assert search.trials()[3].state == RUNNING


def test_one_that_diverged_is_pruned_and_never_best(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    run_search(search, lambda t: (finished(t)[0], math.inf if t.number else 0.1), 2)
    assert [t.state for t in search.trials()] == [COMPLETE, PRUNED]
    assert search.trials()[1].reason == "diverged: its validation is inf"
    best = search.best()
    assert best is not None
    assert best.value == 0.1


def test_no_trial_begins_after_the_timeout(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    run_search(search, finished, 5, timeout_seconds=0)
    assert search.trials() == []
    assert search.best() is None


def test_the_pruner_stops_what_is_no_number(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    trial = search.next_trial()
    table, _ = make_table(tmp_path, files={9: [4]}, validation={9: [4]}, write=False)
    job = make_job(tmp_path, table)
    assert not make_pruner(job, SingleProcess()).should_stop(0, math.nan)  # no trial
    of_trial = dataclasses.replace(job, trial=search.key(trial))
    assert isinstance(of_trial.trial, TrialKey)
    of_trial.save(tmp_path / "job.json")
    loaded = type(job).load(tmp_path / "job.json")
    assert loaded == of_trial
    pruner = make_pruner(loaded, SingleProcess())
    assert not pruner.should_stop(0, 0.1)
    assert pruner.should_stop(1, math.nan)
