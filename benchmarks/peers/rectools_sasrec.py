"""RecTools' SASRec on a sequence file, for some batches; runs in .venv-peers, prints JSON.

Events are real targets: positions of padding, which RecTools computes as well, are not counted.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

warnings.filterwarnings("ignore")


class Clock(Callback):
    """Seconds and real targets of the batches after the first ``warm_up``."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.seconds, self.events, self.batches = warm_up, 0.0, 0, 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index >= self.warm_up:
            self.seconds += time.perf_counter() - self.started
            self.events += int((batch["y"] != 0).sum())
            self.batches += 1


def main() -> None:
    """Train and print events a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--dims", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warm_up = 3

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1, limit_train_batches=warm_up + options.batches, accelerator="cpu",
            logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[Clock(warm_up)],
        )  # fmt: skip

    model = SASRecModel(
        n_factors=options.dims, n_blocks=1, n_heads=1, session_max_len=50, dropout_rate=0.5,
        loss="softmax", batch_size=128, lr=1e-3, get_trainer_func=trainer,
    )  # fmt: skip
    model.fit(Dataset.construct(_read(options.file)))
    # RecTools trains with a copy of the trainer.
    clock = next(c for c in model.fit_trainer.callbacks if isinstance(c, Clock))
    print(
        json.dumps(
            {
                "events_per_second": clock.events / clock.seconds,
                "batches_per_second": clock.batches / clock.seconds,
            }
        )
    )


def _read(file: Path) -> pd.DataFrame:
    """Interactions of the training part: all but each user's last two."""
    rows = []
    for line in file.read_text().splitlines():
        user, *items = line.split()
        rows += [(user, item, place) for place, item in enumerate(items[:-2])]
    frame = pd.DataFrame(rows, columns=[Columns.User, Columns.Item, "place"])
    frame[Columns.Weight] = 1.0
    frame[Columns.Datetime] = pd.Timestamp("2020-01-01") + pd.to_timedelta(frame["place"], "D")
    return frame.drop(columns="place")


if __name__ == "__main__":
    main()
