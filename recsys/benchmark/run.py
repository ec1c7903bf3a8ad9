"""One run of a sequence benchmark: split, train as a night does, rank every item for every user."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from recsys.benchmark.baselines import Figures, run_baselines
from recsys.benchmark.leave_one_out import LeaveOneOut, split, write_windows
from recsys.benchmark.links import find_neighbors, link_attributes, write_links
from recsys.benchmark.measure import PARTS, K, measure
from recsys.benchmark.sequence_file import SequenceSet, read_attributes, read_sequences
from recsys.bundle import load_for_scoring
from recsys.config import Settings
from recsys.errors import ConfigError
from recsys.models.registry import kinds_with_users
from recsys.ranking.histories import Histories
from recsys.score.ranker import rank_histories
from recsys.train.job import TrainingJob
from recsys.train.launch import launch_training
from recsys.train.pretrain import make_pretraining_job

log = logging.getLogger(__name__)

_NO_DATE = "1970-01-01"  # sequences without times: the run's date decides nothing


@dataclass(frozen=True)
class BenchmarkResult:
    """Figures of a run; ``as_json`` is the line that the command prints.

    Attributes:
        users: users evaluated.
        items: items of the catalogue, all of them ranked.
        epochs: epochs trained; the weights of the best one by validation were tested.
        best_epoch: from 1.
        seconds: wall clock from reading the file to the figures.
        events_per_second: targets trained on a second, validation left out.
        seed: of weights, order and dropout.
        sent_bytes_per_event: payload that a rank sends in gradients or weights, for each target
            that all ranks train on.
        validation, test: ``ndcg_at_10`` and ``hr_at_10``.
        baselines: the same of others, by name and part; None where they were not asked for.
    """

    users: int
    items: int
    epochs: int
    best_epoch: int
    seconds: float
    events_per_second: float
    seed: int
    sent_bytes_per_event: float
    validation: dict[str, float]
    test: dict[str, float]
    baselines: dict[str, Figures] | None = None

    def as_json(self) -> str:
        """One line."""
        return json.dumps({name: v for name, v in asdict(self).items() if v is not None})


def run_sequences(
    path: Path, attributes: Path | None, settings: Settings, work: Path, baselines: bool = False
) -> BenchmarkResult:
    """Train and test on one file.

    Args:
        path: of the sequences.
        attributes: of the items, see ``read_attributes``.
        settings: the recipe; ``train.seed`` is the run's seed.
        work: folder for windows, checkpoints and the model. A run that was cut off continues
            there, one that is complete is not trained again.
        baselines: measure popularity, item-item and Spark ALS too.

    Raises:
        ConfigError: the kind of model learns from pairs, of which the protocol has none.
        InputError: the file can't be used; it names the line.
        TrainingError: see ``launch_training``.
    """
    started = time.perf_counter()
    kind = settings.model.kind
    if kind in kinds_with_users():
        raise ConfigError(
            f"model.kind={kind} has a row a user and learns from pairs; this protocol has windows",
            do="choose another kind, or measure it in a night or with benchmarks.rating_factors",
        )
    data = read_sequences(path)
    parts = split(data.sequences)
    if parts.left_out:
        log.warning("%d users with fewer than three events are left out", parts.left_out)
    job = make_job(path, attributes, data, parts, settings, work)
    if settings.train.pretraining.enabled:
        first = launch_training(make_pretraining_job(job, job.table))
        job = replace(job, start_from=first.bundle_dir)
    trained = launch_training(job)
    figures = {part: evaluate(trained.bundle_dir, parts, part, data.num_items) for part in PARTS}
    seconds = time.perf_counter() - started
    return BenchmarkResult(
        users=len(parts.test),
        items=data.num_items,
        epochs=trained.epochs,
        best_epoch=trained.best_epoch + 1,
        seconds=round(seconds, 1),
        events_per_second=round(trained.events_per_second),
        seed=settings.train.seed,
        sent_bytes_per_event=round(
            trained.sent_bytes_per_step * trained.global_steps / max(1, trained.events), 1
        ),
        validation=figures["validation"],
        test=figures["test"],
        baselines=run_baselines(parts, data.num_items, settings) if baselines else None,
    )


def evaluate(bundle: str, parts: LeaveOneOut, part: str, num_items: int) -> dict[str, float]:
    """NDCG@10 and HR@10 of a trained model over all users."""
    model = load_for_scoring(bundle)
    histories = parts.histories(part)
    everything = np.ones(num_items + 1, dtype=np.float32)
    everything[0] = 0.0
    # One more than K shows whether a tie goes on behind the list.
    lists = rank_histories(model, Histories(histories), histories, everything, K + 1)
    return measure(lists.items, lists.scores, parts.targets(part))


def make_job(
    path: Path,
    attributes: Path | None,
    data: SequenceSet,
    parts: LeaveOneOut,
    settings: Settings,
    work: Path,
) -> TrainingJob:
    """The training of ``run_sequences``, with its windows and links written under ``work``."""
    model = settings.model
    links = {}
    if model.neighbor_weight > 0:
        found = find_neighbors(parts.train, data.num_items, model.neighbor_window, model.neighbors)
        links["neighbor"] = [write_links(work / "neighbors.parquet", found)]
    if model.attributes and attributes is not None:
        shared = link_attributes(read_attributes(attributes, data.item_ids))
        links["attribute"] = [write_links(work / "attributes.parquet", shared)]
    return TrainingJob(
        settings=settings,
        run_date=_NO_DATE,
        table=write_windows(parts, work / "windows", settings.gold),
        num_items=data.num_items,
        fingerprint=_fingerprint(settings, path, attributes),
        checkpoint_dir=str(work / "checkpoints"),
        bundle_dir=str(work / "bundle"),
        tracking_uri=settings.tracking.uri,
        tags={"benchmark": path.name},
        links=links,
    )


def _fingerprint(settings: Settings, *inputs: Path | None) -> str:
    """Hash of all that decides the trained weights."""
    sections = {name: getattr(settings, name).model_dump() for name in ("gold", "model", "train")}
    described = [json.dumps(sections, sort_keys=True), torch.__version__]
    described += [hashlib.sha256(p.read_bytes()).hexdigest() if p else "" for p in inputs]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()
