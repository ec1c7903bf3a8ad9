"""Rating models that learn the days online, beside retrainings on all and a model left as it was.

    python -m benchmarks.online_factors ML-100K-FOLDER [--days 60] [--step 6] [S.KEY=VALUE ...]

The log is taken in once. At the end of each step of days three models are asked for the ratings of
the next step, which none has seen: one trained on all that came before (full), one that went on
from its predecessor with the last step's ratings alone (online), and the first one, as it was
(stale). Root mean square errors on all these ratings, and on those whose user and item the full
model knows. Forgetting: the error on a twentieth of the ratings before the first step, chosen by
hash, on which no model ever trains. Seconds are of training, validation included.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from recsys import schemas
from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.lake.examples import write_new_ratings, write_ratings
from recsys.lake.formats import load_format
from recsys.lake.pinning import pin_training_table
from recsys.lake.sequences import holdout_cutoff
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.models import Recommender
from recsys.steps.context import Context
from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
from recsys.steps.runner import run_night
from recsys.train.job import TrainingJob
from recsys.train.launch import launch_training
from recsys.train.start import set_warm_schedule

LAST = date(1998, 4, 22)
SMALL = (
    "spark.master=local[1]",
    "spark.shuffle_partitions=2",
    "gold.min_row_groups=4",
    "model.kind=matrix_factorization",
    "train.launcher=single",
    "train.ranks=1",
    "train.recency_half_life_days=null",
)
Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Ratings:
    """The lake after one night that took in the whole log, and trainings as of earlier days."""

    def __init__(self, log: str, folder: Path, more: list[str]) -> None:
        given = [f"lake.root={folder}/lake", f"input.path={log}", *SMALL, *more]
        settings, form = load_settings(None, given), load_format("movielens")
        self.lake = Lake(build_session(settings, "benchmark online factors"), settings)
        context = Context(settings, form, LAST, self.lake)
        runs = run_night(context, (INGEST, BUILD_SILVER, BUILD_GOLD))
        self.folder = folder
        self.versions = {**runs["build_silver"].tables_written, **runs["build_gold"].tables_written}
        found = self.lake.read(schemas.GOLD_RATINGS).toArrow()
        self.users, self.items = (
            found.column(name).to_numpy().astype(np.int64)
            for name in (schemas.USER_IDX, schemas.ITEM_IDX)
        )
        self.ratings = found.column(schemas.RATING).to_numpy()
        self.days = found.column(schemas.EVENT_DATE).to_numpy().astype("datetime64[D]")

    def between(self, first: date, last: date) -> Pairs:
        """Ratings from a day up to another, which is left out."""
        wanted = (self.days >= np.datetime64(first)) & (self.days < np.datetime64(last))
        users, items, ratings = (part[wanted] for part in (self.users, self.items, self.ratings))
        return torch.from_numpy(users), torch.from_numpy(items), torch.from_numpy(ratings)

    def train(self, day: date, former: str = "") -> tuple[str, dict[str, float]]:
        """A model of the days before ``day``; online where there is a former one."""
        settings, started = self.lake.settings, time.monotonic()
        cutoff = holdout_cutoff(settings.gold, day)
        if former:
            since = load_bundle(former)[1].trained_before
            commit = write_new_ratings(self.lake, self.versions, day, datetime.fromisoformat(since))
            given = {"online": True, "start_from": "champion"}
            train = settings.train.model_copy(update=given)
            settings = set_warm_schedule(settings.model_copy(update={"train": train}))
        else:
            commit = write_ratings(self.lake, self.versions, day)
        assert commit is not None, "a step of days without a rating"
        table = pin_training_table(self.lake, commit.version, schemas.GOLD_TRAINING_EXAMPLES)
        folder = self.folder / f"{day}-{'online' if former else 'full'}"
        job = TrainingJob(
            settings,
            str(day),
            table,
            int(self.items.max()),
            folder.name,
            str(folder),
            str(folder / "bundle"),
            num_users=int(self.users.max()),
            trained_before=cutoff.isoformat(),
        )
        result = launch_training(dataclasses.replace(job, start_from=former))
        trained = sum(file.rows for file in table.files if file.split == schemas.TRAIN_SPLIT)
        return result.bundle_dir, {
            "seconds": result.seconds,
            "with writing": time.monotonic() - started,
            "epochs": result.epochs,
            "best_epoch": result.best_epoch + 1,
            "ratings": trained,
        }

    def held_out(self) -> Pairs:
        """The pairs that validate, of the examples that were written last."""
        rows = self.lake.read(schemas.GOLD_TRAINING_EXAMPLES)
        found = rows.where(f"{schemas.SPLIT} = '{schemas.VALIDATION_SPLIT}'").selectExpr(
            f"{schemas.USER_IDX} AS u", f"{schemas.ITEMS}[0] AS i", f"{schemas.LABELS}[0] AS r"
        )
        table = found.toArrow()
        users, items = (table.column(n).to_numpy().astype(np.int64) for n in ("u", "i"))
        return (
            torch.from_numpy(users),
            torch.from_numpy(items),
            torch.tensor(table.column("r").to_numpy()),
        )


@torch.no_grad()
def measure_error(model: Recommender, pairs: Pairs) -> float:
    """Root mean square error of ratings clipped to the scale."""
    users, items, ratings = pairs
    errors = model(users, items).clamp(1.0, 5.0) - ratings
    return math.sqrt(float(errors.double().square().mean())) if len(ratings) else math.nan


def _known(model: Any, pairs: Pairs) -> Pairs:
    known = model.knows({"user_idx": pairs[0]}) & model.knows_items(pairs[1])
    return pairs[0][known], pairs[1][known], pairs[2][known]


def run_steps(data: Ratings, days: int, step: int) -> list[dict[str, Any]]:
    """Figures of each step."""
    first = LAST - timedelta(days=days - 1)
    stale, figures = data.train(first)
    old = data.held_out()
    online, found = stale, [{"day": str(first), "first": figures}]
    for n in range(1, days // step):
        day = first + timedelta(days=n * step)
        online, online_figures = data.train(day, online)
        full, full_figures = data.train(day)
        models = {
            name: load_bundle(path)[0]
            for name, path in (("full", full), ("online", online), ("stale", stale))
        }
        coming = data.between(day, day + timedelta(days=step))
        known = _known(models["full"], coming)
        row: dict[str, Any] = {
            "day": str(day),
            "coming": len(coming[2]),
            "known": len(known[2]),
            "figures": {"full": full_figures, "online": online_figures},
        }
        for name, model in models.items():
            row[name] = {
                "all": measure_error(model, coming),
                "known": measure_error(model, known),
                "old": measure_error(model, old),
            }
        found.append(row)
    return found


def _print(rows: list[dict[str, Any]]) -> None:
    ways = ("full", "online", "stale")
    print(
        "day        | coming known | RMSE all: full online stale | known: full online stale | "
        "old: full online stale | s: full online"
    )
    for row in rows[1:]:
        parts = [f"{row['day']} | {row['coming']:6d} {row['known']:5d}"]
        parts += [
            " ".join(f"{row[way][part]:.4f}" for way in ways) for part in ("all", "known", "old")
        ]
        parts.append(" ".join(f"{row['figures'][way]['seconds']:.2f}" for way in ways[:2]))
        print(" | ".join(parts))
    for part, weight in (("all", "coming"), ("known", "known")):
        total = sum(row[weight] for row in rows[1:])
        errors = {
            way: math.sqrt(
                sum(row[weight] * row[way][part] ** 2 for row in rows[1:] if row[weight]) / total
            )
            for way in ways
        }
        print(f"RMSE over all steps, {part} ({total} ratings):", errors)
    seconds = [sum(row["figures"][way]["seconds"] for row in rows[1:]) for way in ways[:2]]
    print(f"seconds: full {seconds[0]:.1f}, online {seconds[1]:.1f}, {seconds[1] / seconds[0]:.3f}")


def main() -> None:
    """Take the log in, train step by step, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log")
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--step", type=int, default=6)
    parser.add_argument("settings", nargs="*", help="section.key=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        data = Ratings(options.log, Path(folder), options.settings)
        rows = run_steps(data, options.days, options.step)
    _print(rows)
    print(json.dumps({"benchmark": "online_factors", "machine": describe_machine(), "rows": rows}))


if __name__ == "__main__":
    main()
