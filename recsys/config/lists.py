"""Settings of comparing models and of making lists."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.config.section import Section


class Als(Section):
    rank: int = Field(ge=1, description="latent factors")
    iterations: int = Field(ge=1, description="alternations")
    regularization: float = Field(ge=0, description="Spark's regParam")
    alpha: float = Field(gt=0, description="confidence of implicit feedback")


class Evaluate(Section):
    max_users: int = Field(ge=1, description="held-out users evaluated at most (chosen by hash)")
    min_history_events: int = Field(ge=0, description="events a user needs before the hold-out")
    popularity_days: int = Field(
        ge=1, description="days that recent popularity counts: the fallback, and a second baseline"
    )
    bootstrap_samples: int = Field(ge=10, description="resamples of users behind the intervals")
    item_neighbors: int = Field(
        ge=1, description="neighbours of an item that the item-item baseline knows"
    )
    als: Als = Field(description="Spark ALS, the baseline")


class Score(Section):
    n: int = Field(ge=1, le=1000, description="items in a list")
    method: Literal["exact", "approximate", "auto"] = Field(
        description="how lists are ranked; approximate ones compare a user with clusters of items "
        "near to him, as many as score.recall needs; auto: whichever is forecast to be faster "
        "(`recsys score --explain`)"
    )
    device: Literal["cpu", "cuda"] = Field(
        description="where lists are made; cuda: on executors with GPUs, where score.method is "
        "exact; the same lists but for rounding in the encoder"
    )
    recall: float = Field(
        gt=0,
        lt=1,
        description="share of the exact list that an approximate one has at least, on average: the "
        "lower bound of what is measured on a sample of users; where it isn't reached lists are "
        "exact",
    )
    partitions: int | None = Field(
        ge=1, description="tasks of the scoring job; null: by the size of gold/sequences"
    )
    partition_mb: int = Field(
        ge=1, description="MiB of gold/sequences (compressed) for a task, where partitions is null"
    )
    commits: int = Field(
        ge=1,
        description="parts that a night's lists are committed in: a scoring that was cut off goes "
        "on behind the last one, and each part reads all histories again",
    )
    writer: Literal["auto", "spark"] = Field(
        description="what writes lists' files; auto: the workers that make them, with Arrow, where "
        "lake.root is a folder or in S3 (with the executors' own credentials), and Spark "
        "elsewhere; the same lists, but spark takes longer"
    )
    full_every_days: int = Field(
        ge=1,
        description="days after which every user is scored even where model and candidates stay "
        "the same; between, lists of users who did nothing are carried over. 1: every night",
    )
