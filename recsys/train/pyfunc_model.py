"""The trained model as MLflow's generic python function: histories in, ranked items out."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from recsys.bundle import load_bundle, load_ranker
from recsys.models.reranking import rerank
from recsys.ranking.histories import Histories, pad_histories
from recsys.ranking.top_n import rank_items

MODEL_NAME = "model"
_DEFAULT_N = 10
# Named, since guessing them takes MLflow 20 seconds and finds the wrong ones.
_REQUIREMENTS = ("recsys", "torch", "numpy", "pandas", "mlflow")


class RankingModel(PythonModel):
    """Ranks the whole catalogue for each history, without the items in it."""

    def load_context(self, context: Any) -> None:
        """Load the bundle that was logged with the model, on the CPU."""
        model, self.info = load_bundle(context.artifacts["bundle"])
        self.looks_at = model.config.looks_at
        self.model, self.ranker = model.for_scoring(), load_ranker(context.artifacts["bundle"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Lists of ``items`` (item_idx) and ``scores``, best first, one row an input row.

        Args:
            context: of MLflow.
            model_input: column ``items``, a history of item_idx, oldest first; for a model that
                looks at them ``event_times`` (Unix seconds), ``event_types`` (codes; a click
                ranker needs them too), ``user_idx`` and ``user_attributes`` (hashes of words, as
                in gold/user_links) too.
            params: ``n``, the length of the lists.
        """
        columns = ("items", "event_times", "event_types", "user_attributes")
        given: dict[str, Any] = {
            name: [np.asarray(values, dtype=np.int64) for values in model_input[name]]
            for name in columns
            if name in model_input
        }
        if "user_idx" in self.looks_at and "user_idx" not in model_input:
            raise ValueError("a model with a row a user needs the column user_idx")
        if "user_idx" in model_input:
            given["user_idx"] = model_input["user_idx"].to_numpy(np.int64)
        if "user_attributes" in self.looks_at and "user_attributes" not in given:
            given["user_attributes"] = [np.zeros(0, dtype=np.int64)] * len(model_input)
        padded = pad_histories(Histories(**given), self.info.num_items, self.info.max_length)
        inputs = {name: torch.from_numpy(part) for name, part in padded.items()}
        n = int((params or {}).get("n", _DEFAULT_N))
        first = n if self.ranker is None else max(n, self.ranker.config.candidates)
        with torch.no_grad():
            items, scores = rank_items(self.model.score_items(inputs), first, given["items"])
            if self.ranker is not None:
                items, scores = rerank(self.ranker, inputs, items, scores)
        return pd.DataFrame({"items": items[:, :n].tolist(), "scores": scores[:, :n].tolist()})


def log_model(uri: str, run_id: str, bundle_dir: str | Path, step: int) -> None:
    """Log the bundle as a python function (with its folder as an artifact) to an existing run.

    MLflow shows the run's metrics of ``step`` with it.
    """
    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec(Array(DataType.long), "items"),
                ColSpec(Array(DataType.long), "event_times", required=False),
                ColSpec(Array(DataType.long), "event_types", required=False),
                ColSpec(DataType.long, "user_idx", required=False),
                ColSpec(Array(DataType.long), "user_attributes", required=False),
            ]
        ),
        outputs=Schema(
            [ColSpec(Array(DataType.long), "items"), ColSpec(Array(DataType.float), "scores")]
        ),
        params=ParamSchema([ParamSpec("n", DataType.long, _DEFAULT_N)]),
    )
    for name in ("mlflow.utils.requirements_utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own deprecations and type-hint advice
        mlflow.pyfunc.log_model(
            name=MODEL_NAME,
            python_model=RankingModel(),
            artifacts={"bundle": str(bundle_dir)},
            signature=signature,
            pip_requirements=[_pin(name) for name in _REQUIREMENTS],
            step=step,
        )


def _pin(name: str) -> str:
    try:
        return f"{name}=={version(name).split('+')[0]}"
    except PackageNotFoundError:
        return name
