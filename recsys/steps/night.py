"""All steps of a night, in order."""

from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
from recsys.steps.evaluation import EVALUATE
from recsys.steps.export import EXPORT
from recsys.steps.lists import PUBLISH, SCORE_USERS
from recsys.steps.training import TRAIN

ALL_STEPS = (INGEST, BUILD_SILVER, BUILD_GOLD, TRAIN, EVALUATE, SCORE_USERS, PUBLISH, EXPORT)
