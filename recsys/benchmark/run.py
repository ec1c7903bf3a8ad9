"""One run of a sequence benchmark: split, train as a night does, rank every item for every user."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.benchmark.leave_one_out import LeaveOneOut, split, write_windows
from recsys.benchmark.links import find_neighbors, link_attributes, write_links
from recsys.benchmark.sequence_file import SequenceSet, read_attributes, read_sequences
from recsys.bundle import load_for_scoring
from recsys.config import Settings
from recsys.ranking import metrics
from recsys.ranking.top_n import flatten
from recsys.score.ranker import rank_histories
from recsys.train.job import TrainingJob
from recsys.train.launch import launch_training

K = 10
PARTS = ("validation", "test")
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
        validation, test: ``ndcg_at_10`` and ``hr_at_10``.
    """

    users: int
    items: int
    epochs: int
    best_epoch: int
    seconds: float
    events_per_second: float
    seed: int
    validation: dict[str, float]
    test: dict[str, float]

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def run_sequences(
    path: Path, attributes: Path | None, settings: Settings, work: Path
) -> BenchmarkResult:
    """Train and test on one file.

    Args:
        path: of the sequences.
        attributes: of the items, see ``read_attributes``.
        settings: the recipe; ``train.seed`` is the run's seed.
        work: folder for windows, checkpoints and the model. A run that was cut off continues
            there, one that is complete is not trained again.

    Raises:
        InputError: the file can't be used; it names the line.
        TrainingError: see ``launch_training``.
    """
    started = time.perf_counter()
    data = read_sequences(path)
    parts = split(data.sequences)
    job = _make_job(path, attributes, data, parts, settings, work)
    trained = launch_training(job)
    figures = {part: evaluate(trained.bundle_dir, parts, part, data.num_items) for part in PARTS}
    return BenchmarkResult(
        users=len(parts.test),
        items=data.num_items,
        epochs=trained.epochs,
        best_epoch=trained.best_epoch + 1,
        seconds=round(time.perf_counter() - started, 1),
        events_per_second=round(trained.events_per_second),
        seed=settings.train.seed,
        validation=figures["validation"],
        test=figures["test"],
    )


def evaluate(bundle: str, parts: LeaveOneOut, part: str, num_items: int) -> dict[str, float]:
    """NDCG@10 and HR@10 of a trained model over all users."""
    model = load_for_scoring(bundle)
    histories = parts.histories(part)
    everything = np.ones(num_items + 1, dtype=np.float32)
    everything[0] = 0.0
    # One more than K shows whether a tie goes on behind the list.
    lists = rank_histories(model, histories, histories, everything, K + 1)
    return measure(lists.items, lists.scores, parts.validation if part == PARTS[0] else parts.test)


def measure(items: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """NDCG@10 and HR@10 with one target a user; a tie counts against the target.

    Args:
        items: item_idx [users, 11 or more], best first.
        scores: float [users, 11 or more].
        targets: item_idx [users].
    """
    ranked = metrics.put_behind_ties(items, scores, targets)
    hits = metrics.find_hits(ranked, flatten(list(targets[:, None])))
    return {
        f"ndcg_at_{K}": round(float(metrics.ndcg(hits, K).mean()), 5),
        f"hr_at_{K}": round(float(metrics.hit_rate(hits, K).mean()), 5),
    }


def _make_job(
    path: Path,
    attributes: Path | None,
    data: SequenceSet,
    parts: LeaveOneOut,
    settings: Settings,
    work: Path,
) -> TrainingJob:
    model = settings.model
    found = find_neighbors(parts.train, data.num_items, model.neighbor_window, model.neighbors)
    links = {"neighbor": [write_links(work / "neighbors.parquet", found)]}
    if attributes is not None:
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
