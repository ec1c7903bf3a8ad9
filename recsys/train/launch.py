"""Start a training: by horovodrun, inside Spark executors, or in this process."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys.errors import RecsysError, TrainingError
from recsys.schemas import TRAIN_SPLIT
from recsys.train.communication import SingleProcess
from recsys.train.horovodrun import rank_environment, run_horovodrun
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.plan import plan_epoch
from recsys.train.probe import Probe
from recsys.train.rank_errors import explain
from recsys.train.rank_files import forget_ranks
from recsys.train.worker import (
    PROBE_FILE,
    PROBE_OPTION,
    probe_rank,
    probe_with_horovod,
    train_rank,
    train_with_horovod,
)


def launch_training(job: TrainingJob, spark: Any | None = None) -> TrainingResult:
    """Train ``job`` the way ``train.launcher`` says and wait for the result.

    A job that is complete already (same fingerprint, bundle in place) is not trained again; one
    that was cut off continues from its newest checkpoint.

    Args:
        job: what to train.
        spark: session whose executors train, for the launcher ``spark`` only.

    Raises:
        TrainingError: a rank failed or was killed; it names the rank and where a re-run resumes.
        TrackingError: MLflow can't be reached.
    """
    done = find_result(job)
    if done is not None:
        return done
    folder = Path(job.checkpoint_dir)
    _check_ranks(job)
    forget_ranks(folder)
    launcher = job.settings.train.launcher
    if launcher == "horovodrun":
        run_horovodrun(job, folder)
    elif launcher == "spark":
        _run_in_spark(job, spark, train_with_horovod)
    else:
        return train_rank(job, SingleProcess())
    return TrainingResult.load(job.result_path)


def launch_probe(job: TrainingJob, spark: Any | None = None) -> Probe:
    """Time a few steps of ``job`` on its ranks, started as ``launch_training`` would.

    Raises:
        TrainingError: a rank failed; it names the rank.
    """
    folder = Path(job.checkpoint_dir)
    job = _with_fixed_ranks(job)
    _check_ranks(job)
    forget_ranks(folder)
    launcher = job.settings.train.launcher
    if launcher == "horovodrun":
        run_horovodrun(job, folder, PROBE_OPTION)
    elif launcher == "spark":
        _run_in_spark(job, spark, probe_with_horovod)
    else:
        return probe_rank(job, SingleProcess())
    return Probe.load(folder / PROBE_FILE)


def _with_fixed_ranks(job: TrainingJob) -> TrainingJob:
    """An elastic training is timed as it begins."""
    fixed = {"min_ranks": None, "max_ranks": None, "discovery_script": None}
    train = job.settings.train.model_copy(update=fixed)
    return dataclasses.replace(job, settings=job.settings.model_copy(update={"train": train}))


def find_result(job: TrainingJob) -> TrainingResult | None:
    """The result of an earlier, complete training of the same job, or None."""
    from recsys.bundle import load_bundle

    try:
        result = TrainingResult.load(job.result_path)
        if not result.pruned:
            load_bundle(result.bundle_dir)
    except RecsysError:
        return None
    return result if result.fingerprint == job.fingerprint else None


def _check_ranks(job: TrainingJob) -> None:
    """Plan an epoch before any process starts: with too few row groups it says so."""
    settings = job.settings.train
    plan_epoch(
        [file for file in job.table.files if file.split == TRAIN_SPLIT],
        seed=settings.seed,
        epoch=0,
        ranks=settings.most_ranks // settings.parallel.pipeline_stages,
        batch_size=settings.per_rank_batch_size,
        batch_events=settings.per_rank_batch_events,
    )


def _run_in_spark(job: TrainingJob, spark: Any | None, run: Callable[[TrainingJob], None]) -> None:
    if spark is None:
        raise TrainingError(
            "train.launcher=spark needs a Spark session",
            do="start it with spark-submit, or set train.launcher=horovodrun",
        )
    import horovod.spark

    settings = job.settings.train
    try:
        horovod.spark.run(
            run,
            args=(job,),
            num_proc=settings.ranks,
            use_gloo=True,
            executable=os.environ.get("PYSPARK_PYTHON", sys.executable),
            env=rank_environment(job),
            verbose=1,
        )
    except Exception as error:
        explained = explain(job, str(error).splitlines(), 1)
        raise explained from error
