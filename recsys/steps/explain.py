"""What the steps train and score_users would take, told before they begin."""

from __future__ import annotations

import dataclasses

from recsys.score.explain import Explained, explain_lists
from recsys.steps.context import Context
from recsys.steps.lists import versions_of
from recsys.steps.rules import read_night_rules
from recsys.steps.tracking import open_tracking
from recsys.steps.training import plan_training
from recsys.train.forecast import Forecast, forecast
from recsys.train.launch import launch_probe


def explain_training(context: Context) -> Forecast:
    """Pin what the night would train on, time a few steps on its ranks, and reckon an epoch.

    The tables that its model needs besides are written, as the training would; nothing is trained,
    tracked or recorded. A training from the champion costs the same a step; of
    two trainings (train.pretraining.enabled) it is the second.

    Raises:
        LakeError: build_gold of this night has not run, or left nothing to train on.
        TrainingError: a rank failed.
    """
    job = dataclasses.replace(plan_training(context).job, tracking_uri=None)
    return forecast(job, launch_probe(job, context.spark))


def explain_scoring(context: Context) -> Explained:
    """Time small runs of the night's ranking; no list is made, nothing is recorded.

    Raises:
        ConfigError: rules or score.method compare item vectors, and the model has none.
        LakeError: evaluate of this night has not run.
        TrackingError: the champion can't be read, or was trained on another catalogue.
    """
    version = context.done("evaluate").details["champion_version"]
    bundle = open_tracking(context.settings).bundle_of(version)
    rules = read_night_rules(context)
    return explain_lists(context.lake, bundle, versions_of(context), context.run_date, rules)
