"""What the step train would take, told before it trains."""

from __future__ import annotations

import dataclasses

from recsys.steps.context import Context
from recsys.steps.training import plan_training
from recsys.train.forecast import Forecast, forecast
from recsys.train.launch import launch_probe


def explain_training(context: Context) -> Forecast:
    """Pin what the night would train on, time a few steps on its ranks, and reckon an epoch.

    The tables that its model needs besides are written, as the training would; nothing is trained,
    tracked or recorded. A training from the champion costs the same a step.

    Raises:
        LakeError: build_gold of this night has not run, or left nothing to train on.
        TrainingError: a rank failed.
    """
    job = dataclasses.replace(plan_training(context).job, tracking_uri=None)
    return forecast(job, launch_probe(job, context.spark))
