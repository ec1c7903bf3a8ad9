"""A trained model as a folder: ``weights.pt`` and ``bundle.json``, all that scoring needs.

A model whose lists are re-ranked has the bundle of its ranker inside, in the folder ``ranker``.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from recsys.errors import RecsysError
from recsys.files import hash_file, new_folder
from recsys.models import ClickRanker, Links, ModelConfig, Recommender, build_model, read_config

BUNDLE_FILE = "bundle.json"
WEIGHTS_FILE = "weights.pt"
RANKER_FOLDER = "ranker"
_FORMAT = 1


@dataclass(frozen=True)
class BundleInfo:
    """Where a model comes from.

    Attributes:
        run_date: the night's date, ISO.
        fingerprint: of the training job.
        num_items: largest item_idx the model knows.
        max_length: most items of a history it looks at.
        table_versions: table name to the Delta version it was trained on.
        run_id: MLflow run; empty without tracking.
        metrics: validation metrics at the best epoch.
        trained_before: first moment (UTC, ISO) of which training saw nothing; empty: not known.
        catalogue: hash of the items and their item_idx (``lake.popularity.hash_items``); empty: not
            known.
    """

    run_date: str
    fingerprint: str
    num_items: int
    max_length: int
    table_versions: dict[str, int] = field(default_factory=dict)
    run_id: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    trained_before: str = ""
    catalogue: str = ""


def save_bundle(
    path: str | Path, model: Recommender, info: BundleInfo, ranker: str | Path | None = None
) -> None:
    """Write the folder ``path``; it appears complete or not at all, and replaces an older one.

    Args:
        path: of the folder.
        model, info: what goes in.
        ranker: bundle of the model that re-ranks this one's lists; its copy goes in, too.
    """
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with new_folder(Path(path)) as folder:
        torch.save(weights, folder / WEIGHTS_FILE)
        content = {
            "format": _FORMAT,
            "model": model.config.to_dict(),
            "weights_sha256": _hash(folder / WEIGHTS_FILE),
            "info": dataclasses.asdict(info),
        }
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / BUNDLE_FILE).write_text(text + "\n", encoding="utf-8")
        if ranker is not None:
            shutil.copytree(ranker, folder / RANKER_FOLDER)


def load_bundle(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[Recommender, BundleInfo]:
    """Read a bundle back: the model in evaluation mode on ``device``, and where it comes from.

    Raises:
        RecsysError: a file is missing, corrupt, or of a newer format; it names the file.
    """
    folder = Path(path)
    content = _read_description(folder / BUNDLE_FILE)
    weights = _read_weights(folder / WEIGHTS_FILE, content["weights_sha256"])
    try:
        model = build_model(content["model"])
        model.load_state_dict(weights)
        info = BundleInfo(**content["info"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(folder / BUNDLE_FILE, f"does not describe its weights: {error}") from None
    return model.to(device).eval(), info


def load_config(path: str | Path) -> ModelConfig:
    """The shape of a bundle's model, without its weights.

    Raises:
        RecsysError: the description is missing, corrupt, or of a newer format.
    """
    file = Path(path) / BUNDLE_FILE
    try:
        return read_config(_read_description(file)["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(file, f"does not describe a model: {error}") from None


def load_info(path: str | Path) -> BundleInfo:
    """Where a bundle's model comes from, without its weights.

    Raises:
        RecsysError: as ``load_config``.
    """
    file = Path(path) / BUNDLE_FILE
    try:
        return BundleInfo(**_read_description(file)["info"])
    except (KeyError, TypeError) as error:
        raise _broken(file, f"does not say where the model comes from: {error}") from None


def check_files(path: str | Path) -> None:
    """Find a bundle's damage before many workers do.

    Raises:
        RecsysError: as ``load_bundle``, of the model's weights or of its ranker's.
    """
    for folder in (Path(path), find_ranker(path)):
        if folder is not None:
            description = _read_description(folder / BUNDLE_FILE)
            _check_hash(folder / WEIGHTS_FILE, description["weights_sha256"])


def load_for_scoring(path: str | Path, links: Links | None = None) -> Recommender:
    """The model alone, on the CPU, as it is cheapest to ask.

    Args:
        links: for ``Recommender.extend_items``, so that it knows items that came later.

    Raises:
        RecsysError: as ``load_bundle``.
    """
    model = load_bundle(path)[0]
    return (model.extend_items(links) if links else model).for_scoring()


def find_ranker(path: str | Path) -> Path | None:
    """The bundle of the ranker inside a bundle, or None."""
    folder = Path(path) / RANKER_FOLDER
    return folder if folder.exists() else None


def load_ranker(path: str | Path) -> ClickRanker | None:
    """The ranker inside the bundle ``path``, for scoring, or None where lists are the model's own.

    Raises:
        RecsysError: as ``load_bundle``; or what is inside does not rank.
    """
    folder = find_ranker(path)
    if folder is None:
        return None
    model = load_for_scoring(folder)
    if not isinstance(model, ClickRanker):
        raise _broken(folder / BUNDLE_FILE, "is not of a click ranker")
    return model


def _read_description(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content["format"]
        content["weights_sha256"]
    except FileNotFoundError:
        raise _broken(file, "does not exist") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(file, f"can't be read: {error!r}") from None
    if version != _FORMAT:
        raise RecsysError(
            f"model bundle has format {version}, this release reads {_FORMAT}",
            where=str(file),
            do="use the release that wrote it, or train again",
        )
    return dict(content)


def _read_weights(file: Path, sha256: str) -> dict[str, torch.Tensor]:
    _check_hash(file, sha256)
    weights: dict[str, torch.Tensor] = torch.load(
        file, map_location="cpu", weights_only=True, mmap=True
    )
    return weights


def _check_hash(file: Path, sha256: str) -> None:
    try:
        found = _hash(file)
    except OSError as error:
        raise _broken(file, f"can't be read: {error}") from None
    if found != sha256:
        raise _broken(file, f"is damaged: its SHA-256 differs from {BUNDLE_FILE}")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hash_file(file).hex()


def _broken(file: Path, what: str) -> RecsysError:
    return RecsysError(
        f"model bundle file {file.name} {what}",
        where=str(file),
        do="delete the folder and train again, or score with another model version",
    )
