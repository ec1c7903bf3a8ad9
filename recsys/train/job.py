"""What a training is, as a file all ranks read, and what came out of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.errors import TrainingError
from recsys.files import write_atomically
from recsys.schemas import DataFile, PinnedTable
from recsys.train.plan import BATCH_ORDER

if TYPE_CHECKING:
    from recsys.config import Settings

JOB_FILE = "job.json"
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class TrialKey:
    """Where a search keeps the trial that a training is.

    Attributes:
        storage: url of the search's database, which rank 0 can reach.
        study: name of the search in it.
        number: of the trial, from 0.
        run_id: MLflow run of the search; the trial's run is nested in it.
    """

    storage: str
    study: str
    number: int
    run_id: str


@dataclass(frozen=True)
class TrainingJob:
    """Everything a rank needs; equal jobs train to equal weights.

    Attributes:
        settings: of the night; training reads the sections feed, model, train and tracking.
        run_date: the night's date, ISO.
        table: pinned files of gold/training_sequences, or of gold/training_examples.
        num_items: largest item_idx of the pinned silver/items.
        fingerprint: hash of all that decides the result; names the training in checkpoints.
        checkpoint_dir: folder of this job that all ranks can write and read.
        bundle_dir: where the trained model goes.
        tracking_uri: MLflow server or store; None trains without tracking.
        table_versions: table name to Delta version, for tags and the bundle.
        tags: further tags of the run, e.g. ``{"code_commit": …}``.
        links: urls of the files that link items, by ``attribute``, ``hashed`` and ``neighbor``
            (see ``item_links``), and users, by ``user`` (see ``user_links``).
        num_users: largest user_idx of the pinned silver/users; 0 where no model needs it.
        start_from: bundle of a model whose weights this one starts with; empty starts from chance.
        trial: of the search that the training is part of; None for all others.
        new_items: item_idx of which the model to start from has seen no event, though it may have
            rows for them.
        trained_before: first moment (UTC, ISO) that is held out; goes into the bundle.
        catalogue: hash of the items and their item_idx; goes into the bundle.
        ranker_bundle: bundle of the ranker that goes into this job's bundle; empty: none does.
    """

    settings: Settings
    run_date: str
    table: PinnedTable
    num_items: int
    fingerprint: str
    checkpoint_dir: str
    bundle_dir: str
    tracking_uri: str | None = None
    table_versions: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    links: dict[str, list[str]] = field(default_factory=dict)
    num_users: int = 0
    start_from: str = ""
    ranker_bundle: str = ""
    trial: TrialKey | None = None
    new_items: list[int] = field(default_factory=list)
    trained_before: str = ""
    catalogue: str = ""

    @property
    def online(self) -> bool:
        """Whether it goes on from a model with what came since alone."""
        return self.settings.train.online and bool(self.start_from)

    @property
    def max_length(self) -> int:
        """Most items of a history the model looks at: the longest window but its last target."""
        return max(1, max(file.bucket for file in self.table.files) - 1)

    @property
    def urls(self) -> list[str]:
        """All files that a training reads."""
        return [
            *(file.url for file in self.table.files),
            *(url for urls in self.links.values() for url in urls),
        ]

    def moved(self, to: Mapping[str, str]) -> TrainingJob:
        """The same job on copies of its files: url to url of the copy."""
        files = tuple(dataclasses.replace(file, url=to[file.url]) for file in self.table.files)
        return dataclasses.replace(
            self,
            table=dataclasses.replace(self.table, files=files),
            links={kind: [to[url] for url in urls] for kind, urls in self.links.items()},
        )

    @property
    def identity(self) -> str:
        """Of its checkpoints: what is trained, and in which order of batches."""
        return f"{self.fingerprint}-{BATCH_ORDER}"

    @property
    def result_path(self) -> Path:
        """Where rank 0 writes the ``TrainingResult``."""
        return Path(self.checkpoint_dir) / RESULT_FILE

    def save(self, path: str | Path) -> None:
        """Write the job as JSON, whole or not at all."""
        content = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in ("settings", "table")
        }
        content["settings"] = self.settings.model_dump(mode="json")
        content["table"] = dataclasses.asdict(self.table)
        content["trial"] = dataclasses.asdict(self.trial) if self.trial else None
        write_atomically(Path(path), (json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> TrainingJob:
        """Inverse of ``save``.

        Raises:
            TrainingError: the file is missing or is not a job of this release.
        """
        from recsys.config import Settings

        content = _read_json(Path(path), "training job")
        try:
            table = content.pop("table")
            files = tuple(DataFile(**file) for file in table.pop("files"))
            settings = Settings.model_validate(content.pop("settings"))
            if content["trial"]:
                content["trial"] = TrialKey(**content["trial"])
            return cls(settings=settings, table=PinnedTable(files=files, **table), **content)
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(Path(path), "training job", error) from None


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training reports.

    Attributes:
        fingerprint: of the job.
        run_id: MLflow run; empty without tracking.
        bundle_dir: the trained model (weights of the best epoch); empty where pruned.
        epochs: epochs trained.
        best_epoch: from 0, the one whose weights are in the bundle.
        metrics: validation metrics at the best epoch, e.g. ``validation_ndcg_at_10``.
        global_steps: optimizer steps.
        events: targets trained on, all ranks and epochs.
        seconds: wall clock from the first step, validation included, pauses excluded.
        events_per_second: events over the seconds spent in training epochs (without validation).
        wait_share: share of those seconds that the model waited for data, mean over ranks.
        pruned: ended early by the search that it is a trial of.
        sent_bytes_per_step: payload that a rank sends in gradients (or weights), in bytes.
    """

    fingerprint: str
    run_id: str
    bundle_dir: str
    epochs: int
    best_epoch: int
    metrics: dict[str, float]
    global_steps: int
    events: int
    seconds: float
    events_per_second: float
    wait_share: float
    pruned: bool = False
    sent_bytes_per_step: float = 0.0

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        write_atomically(Path(path), text.encode())

    @classmethod
    def load(cls, path: str | Path) -> TrainingResult:
        """Inverse of ``save``.

        Raises:
            TrainingError: the file is missing or is not a result of this release.
        """
        try:
            return cls(**_read_json(Path(path), "training result"))
        except TypeError as error:
            raise _unreadable(Path(path), "training result", error) from None


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, what, error) from None


def _unreadable(path: Path, what: str, error: Exception) -> TrainingError:
    return TrainingError(
        f"{what} can't be read: {error}", where=str(path), do="delete it and train again"
    )
