"""All settings of a night, section by section."""

from __future__ import annotations

from pydantic import model_validator

from recsys.config.export import Export
from recsys.config.gate import Gate
from recsys.config.generate import Generate
from recsys.config.lake import Gold, Ingest, Input, Lake, Privacy, Quality, Silver, Spark
from recsys.config.lists import Evaluate, Score
from recsys.config.relations import check_relations
from recsys.config.rules import Rules
from recsys.config.section import Section
from recsys.config.tracking import Tracking
from recsys.config.training import TASKS, Feed, Model, Ranker, Train


class Settings(Section):
    """All settings of a night."""

    lake: Lake
    spark: Spark
    input: Input
    generate: Generate
    ingest: Ingest
    silver: Silver
    privacy: Privacy
    gold: Gold
    feed: Feed
    model: Model
    train: Train
    ranker: Ranker
    evaluate: Evaluate
    score: Score
    gate: Gate
    rules: Rules
    quality: Quality
    export: Export
    tracking: Tracking

    @property
    def task(self) -> str:
        """What the model is trained for."""
        return TASKS[self.model.kind][0] if self.train.task == "auto" else self.train.task

    @model_validator(mode="after")
    def _check_relations(self) -> Settings:
        check_relations(self)
        return self
