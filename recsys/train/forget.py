"""Forgetting users in models that have a row for each: in bundles and in unfinished trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle import BUNDLE_FILE, BundleInfo, load_bundle, load_config, save_bundle
from recsys.errors import TrainingError
from recsys.models import Recommender
from recsys.models.pairs import forget_users
from recsys.models.registry import tables_of_users
from recsys.train.checkpoint import read_checkpoint

IsOurs = Callable[[BundleInfo], bool]


@dataclass(frozen=True)
class Forgotten:
    """What was done in a folder.

    Attributes:
        bundles: models that knew one of the users, and were written anew.
        checkpoints: unfinished trainings' files that were removed.
    """

    bundles: int
    checkpoints: int


def forget_in_folder(folder: Path, user_idx: Sequence[int], is_ours: IsOurs) -> Forgotten:
    """Zero the users' rows in all bundles under a folder, and remove unfinished trainings.

    A bundle is written anew with its new SHA-256, whole or not at all; a user without a row is
    unknown to the model, and gets the fallback. Of an unfinished training not only the weights have
    a user's row but averages and the optimizer too: its checkpoints go, and it starts from its
    beginning.

    Args:
        folder: everything under it is looked at.
        user_idx: whom to forget.
        is_ours: whether a bundle is one of the lake that the indices belong to.

    Raises:
        RecsysError: a bundle can't be read, so it can't be said what is in it; it names the file.
    """
    bundles = checkpoints = 0
    for path, model, info in _find_bundles(folder, is_ours):
        if forget_users(model, user_idx):
            save_bundle(path, model, info)
            bundles += 1
    for file in sorted(folder.rglob("*.checkpoint*")):
        if _may_have_users(file):
            file.unlink()
            checkpoints += 1
    return Forgotten(bundles, checkpoints)


def check_forgotten(folder: Path, user_idx: Sequence[int], is_ours: IsOurs) -> int:
    """Read all bundles under a folder again; how many there are with a row a user.

    Raises:
        TrainingError: one still knows one of the users.
        RecsysError: one can't be read.
    """
    read = 0
    for path, model, _ in _find_bundles(folder, is_ours):
        read += 1
        if forget_users(model, user_idx):
            raise TrainingError(
                "a model still has rows of users that were to be erased",
                where=str(path),
                do="a training wrote it meanwhile: run the same command again",
            )
    return read


def _find_bundles(folder: Path, is_ours: IsOurs) -> Iterator[tuple[Path, Recommender, BundleInfo]]:
    """Bundles of models with a row a user, as they are now."""
    for file in sorted(folder.rglob(BUNDLE_FILE)):
        if tables_of_users(load_config(file.parent).to_dict()["kind"]):
            model, info = load_bundle(file.parent)
            if is_ours(info):
                yield file.parent, model, info


def _may_have_users(checkpoint: Path) -> bool:
    """Also where it is damaged: then nobody can go on from it either."""
    try:
        weights = read_checkpoint(checkpoint)["state"]["model"]
    except (OSError, ValueError, RuntimeError, KeyError):
        return True
    return not tables_of_users().isdisjoint(weights)
