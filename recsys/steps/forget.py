"""Where models with a row a user lie, for `recsys erase`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle import BundleInfo
from recsys.config import Settings, local_lake_path
from recsys.models.registry import kinds_with_users
from recsys.steps.tracking import open_tracking
from recsys.steps.training import checkpoint_root
from recsys.train.forget import IsOurs, check_forgotten, forget_in_folder
from recsys.train.registry import Trained

Say = Callable[[str], None]


@dataclass(frozen=True)
class ModelStores:
    """Where the models of a lake are kept.

    Attributes:
        folders: that can be read from here, each with what says whether a bundle is the lake's.
        elsewhere: places out of reach that hold such models, each with their runs.
    """

    folders: tuple[tuple[Path, IsOurs], ...]
    elsewhere: tuple[tuple[str, tuple[str, ...]], ...]

    def forget(self, user_idx: Sequence[int], say: Say) -> None:
        """Zero the users' rows wherever they can be reached, and say where they can't.

        Raises:
            RecsysError: a bundle can't be read; nothing was lost, and the command can be repeated.
        """
        for folder, is_ours in self.folders:
            done = forget_in_folder(folder, user_idx, is_ours)
            say(
                f"  {folder}: {done.bundles} models without the users' rows, "
                f"{done.checkpoints} unfinished checkpoints removed"
            )
        for place, runs in self.elsewhere:
            say(
                f"  {place} can't be reached from here, and the models of {len(runs)} runs there "
                f"have a row a user ({', '.join(runs[:3])}{', …' if runs[3:] else ''}): delete the "
                "runs and their models there (`mlflow gc`) once a new model has been trained"
            )

    def check(self, user_idx: Sequence[int]) -> int:
        """Read all reachable models again; how many have a row a user.

        Raises:
            TrainingError: one still knows a user.
        """
        return sum(check_forgotten(folder, user_idx, ours) for folder, ours in self.folders)


def find_model_stores(settings: Settings) -> ModelStores:
    """The folder of checkpoints, and where MLflow keeps models of kinds with a row a user.

    Raises:
        TrackingError: MLflow can't be asked.
    """
    folders: list[tuple[Path, IsOurs]] = []
    elsewhere: list[tuple[str, tuple[str, ...]]] = []
    local = local_lake_path(settings.lake.root)
    if local is not None or settings.train.checkpoint_dir:
        root = checkpoint_root(settings)
        if root.is_dir():
            folders.append((root, lambda _: True))
    tracked = bool(settings.tracking.uri) or (local is not None and (local / "_mlflow").is_dir())
    for trained in open_tracking(settings).find_trained(kinds_with_users()) if tracked else ():
        runs = tuple(run for run, lake in trained.runs.items() if _same(lake, settings.lake.root))
        folder = _folder_of(trained)
        if runs and folder is None:
            elsewhere.append((trained.location, runs))
        elif runs and folder is not None:
            folders.append((folder, _one_of(frozenset(runs))))
    return ModelStores(tuple(folders), tuple(elsewhere))


def _folder_of(trained: Trained) -> Path | None:
    path = local_lake_path(trained.location)
    return path if path is not None and path.is_dir() else None


def _one_of(runs: frozenset[str]) -> IsOurs:
    def is_ours(info: BundleInfo) -> bool:
        return info.run_id in runs

    return is_ours


def _same(lake: str, root: str) -> bool:
    """Whether two names may be one lake; what a relative path meant then is not known now."""
    absolute = all("://" in name or Path(name).is_absolute() for name in (lake, root))
    return not absolute or _plain(lake) == _plain(root)


def _plain(root: str) -> str:
    return str(local_lake_path(root) or root.rstrip("/"))
