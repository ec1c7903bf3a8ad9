"""How training speeds up with the number of ranks, on one machine: figures and a plot.

Strong scaling: every number of ranks trains the same model on the same global batches, a rank's
share of which shrinks as ranks are added.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from recsys.benchmark.leave_one_out import split
from recsys.benchmark.run import make_job
from recsys.benchmark.sequence_file import read_sequences
from recsys.config import Settings, with_values
from recsys.errors import ConfigError
from recsys.train.launch import launch_training
from recsys.train.runs import Run

_USERS, _ITEMS, _EVENTS = 4000, 2000, (10, 40)


@dataclass(frozen=True)
class ScalingResult:
    """One number of ranks; ``as_json`` is the line that the command prints.

    Attributes:
        ranks: processes of one thread each.
        events_per_second: targets trained on a second, validation left out.
        speed_up: of one rank.
        efficiency: speed-up over ranks.
        seconds: spent in training epochs.
        waited_seconds: of those, waiting for data; mean over ranks.
    """

    ranks: int
    events_per_second: int
    speed_up: float
    efficiency: float
    seconds: float
    waited_seconds: float

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def run_scaling(
    path: Path, settings: Settings, ranks: Sequence[int], epochs: int, work: Path
) -> Iterator[ScalingResult]:
    """Train with each number of ranks, one first, which the others are compared with.

    Args:
        path: of sequences, see ``read_sequences``.
        settings: the recipe; its batch times its ranks is the global batch.
        ranks: numbers of processes.
        epochs: to train, whatever the validation says.
        work: folder for windows, checkpoints and models.

    Raises:
        ConfigError: the global batch can't be dealt to so many ranks.
        InputError: the file can't be used; it names the line.
        TrainingError: see ``launch_training``.
    """
    data = read_sequences(path)
    parts = split(data.sequences)
    counts = sorted({1, *ranks})
    shares = {count: share_batch(settings, count, epochs) for count in counts}
    alone = 0.0
    for count, share in shares.items():
        job = make_job(path, None, data, parts, share, work / f"{count}-ranks")
        result = launch_training(dataclasses.replace(job, tracking_uri=None))
        alone = alone or result.events_per_second
        speed_up = result.events_per_second / alone
        seconds = result.events / result.events_per_second
        yield ScalingResult(
            ranks=count,
            events_per_second=round(result.events_per_second),
            speed_up=round(speed_up, 3),
            efficiency=round(speed_up / count, 3),
            seconds=round(seconds, 2),
            waited_seconds=round(seconds * result.wait_share, 2),
        )


def share_batch(settings: Settings, ranks: int, epochs: int) -> Settings:
    """The settings of ``ranks`` ranks that together take the batch of ``settings``.

    Raises:
        ConfigError: the batch can't be dealt evenly.
    """
    train = settings.train
    values = {
        "train.ranks": ranks,
        "train.threads_per_rank": 1,
        "train.max_epochs": epochs,
        "train.patience": epochs,
    }
    for name in ("per_rank_batch_size", "per_rank_batch_events"):
        size = getattr(train, name)
        if size is None:
            continue
        size *= train.ranks
        if size % ranks:
            raise ConfigError(
                f"{ranks} ranks can't share a batch of {size} evenly",
                do=f"set train.{name} to a multiple of {ranks}, or leave out --ranks {ranks}",
            )
        values[f"train.{name}"] = size // ranks
    return with_values(settings, values)


def write_walks(path: Path, seed: int) -> Path:
    """A file of synthetic sequences: users who walk a ring of items, each with a step of its own.

    What there is to learn does not matter for the speed; lengths vary, as in real sets.
    """
    dice = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as file:
        for user in range(_USERS):
            start, step, length = (
                dice.integers(_ITEMS),
                dice.integers(1, 9),
                dice.integers(*_EVENTS),
            )
            items = (start + step * np.arange(length)) % _ITEMS + 1
            file.write(f"{user} {' '.join(map(str, items))}\n")
    return path


def draw_scaling(results: Sequence[ScalingResult], path: Path) -> None:
    """A PNG: events a second by ranks, beside what N times one rank would be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    ranks = [result.ranks for result in results]
    speeds = [result.events_per_second for result in results]
    axes.plot(ranks, [speeds[0] * count for count in ranks], "--", color="grey", label="ideal")
    axes.plot(ranks, speeds, "o-", label="measured")
    axes.set_xticks(ranks)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("ranks (one thread each)")
    axes.set_ylabel("events a second")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, format="png")


def log_scaling(results: Sequence[ScalingResult], picture: Path, settings: Settings) -> None:
    """Keep figures (the number of ranks is their step) and plot in an MLflow run.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    tracking = settings.tracking
    assert tracking.uri is not None
    run = Run.begin(tracking.uri, tracking.timeout_seconds, tracking.experiment, "scaling")
    names = ("events_per_second", "speed_up", "efficiency", "waited_seconds")
    figures = [(name, float(getattr(r, name)), r.ranks) for r in results for name in names]
    run.end(tags={"benchmark": "scaling"}, metrics=figures, files=[picture])
