"""The settings themselves: one model a section, every field with its meaning and unit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys.config.export import Export
from recsys.config.gate import Gate
from recsys.config.parallel import check_pipeline
from recsys.config.rules import Rules, check_rules
from recsys.config.section import Section
from recsys.config.training import FINE_TUNING, TASKS, Feed, Model, Ranker, Train


class Lake(Section):
    root: str = Field(min_length=1, description="folder, hdfs:// or s3a:// path of all tables")
    vault_root: str | None = Field(
        description="path of silver/user_vault; null puts it under the root"
    )
    retries: int = Field(
        ge=0, description="times a stage is done again because another run wrote the same tables"
    )
    s3_endpoint: str | None = Field(
        pattern=r"^https?://",
        description="address of an S3-compatible store, for s3a:// paths; null is Amazon's",
    )
    s3_region: str | None = Field(description="of the store; null leaves it to the AWS environment")
    keep_nights: int = Field(
        ge=1, description="last nights whose table versions vacuum keeps readable"
    )
    vacuum_hours: int = Field(
        ge=0,
        description="vacuum keeps what was current or written within so many hours; longer than "
        "a night lasts, for a night that runs meanwhile",
    )
    retention_days: dict[str, int | None] = Field(
        description="table to days of partitions kept, where it is not as in recsys/schemas/; "
        "null keeps all"
    )
    file_mb: int = Field(ge=1, description="size of the files that compaction makes, in MiB")
    compact_from_files: int = Field(
        ge=2,
        description="files under half of file_mb in one partition from which it is compacted",
    )

    @property
    def store(self) -> dict[str, str]:
        """``endpoint`` and ``region`` of the store, as far as they are set."""
        given = {"endpoint": self.s3_endpoint, "region": self.s3_region}
        return {name: value for name, value in given.items() if value}


class Spark(Section):
    master: str | None = Field(
        description="Spark master, e.g. local[2]; null leaves it to spark-submit"
    )
    driver_memory: str = Field(
        pattern=r"^\d+[mg]$", description="driver heap, e.g. 2g; spark-submit's own flag wins"
    )
    java_options: str = Field(description="flags of the driver's JVM")
    shuffle_partitions: int = Field(ge=1, description="tasks of a shuffle")
    extra: dict[str, str] = Field(description="any other Spark setting, name to value")


class Input(Section):
    path: str | None = Field(description="folder or file of the raw logs")
    format: str = Field(description="name in conf/formats/, or the path of a format file")


class Generate(Section):
    events: int = Field(ge=100, description="events before defects are added (about)")
    users: int = Field(ge=10, description="users")
    items: int = Field(ge=20, description="items in the catalogue at the end")
    days: int = Field(ge=2, description="days of logs, the last one being the date")
    seed: int = Field(description="same seed, same bytes")
    categories: int = Field(ge=2, description="groups of items that tastes are made of")
    taste_days: int = Field(ge=1, description="days after which a part of a user's taste drifts")
    session_steps: int = Field(ge=1, le=1000, description="mean items looked at in a session")
    popular_share: float = Field(ge=0, le=1, description="share of steps off the user's path")
    click_spread: float = Field(
        ge=0,
        description="log-odds by which a click is likelier a rating point that an item is better "
        "or fits the user's taste; 0: every view is clicked alike",
    )
    exact_duplicate_rate: float = Field(ge=0, le=1, description="share of lines written twice")
    near_duplicate_rate: float = Field(ge=0, le=1, description="share repeated a second later")
    late_rate: float = Field(ge=0, le=1, description="share logged 1 to 3 days after they happened")
    malformed_rate: float = Field(ge=0, le=1, description="share of broken lines")
    unknown_type_rate: float = Field(ge=0, le=1, description="share with an unknown event type")
    bad_rating_rate: float = Field(ge=0, le=1, description="share with a rating outside 1 to 5")
    clock_skew_rate: float = Field(ge=0, le=1, description="share stamped days in the future")
    bot_user_rate: float = Field(ge=0, le=1, description="share of users that are bots")


class Ingest(Section):
    max_reject_share: float = Field(
        ge=0, le=1, description="share of rejected records above which the night fails"
    )
    accept_schema: bool = Field(
        description="take a night whose log lost a column or changed its type; for that night alone"
    )
    unmapped_drift: Literal["fail", "report"] = Field(
        description="a column that the log's format does not read was lost or changed its type"
    )


class Quality(Section):
    block_publish: bool = Field(
        description="a red check of the night stops `publish`; off publishes and warns"
    )


class Silver(Section):
    near_duplicate_seconds: int = Field(
        ge=0, description="same user, item and type again within this many seconds is a duplicate"
    )
    future_tolerance_seconds: int = Field(
        ge=0, description="events later than the end of the run date by more are rejected"
    )
    late_days: int = Field(
        ge=0,
        description="an event of a daily log may be so many days older than the log's day; "
        "older ones are rejected",
    )
    max_user_events_per_day: int = Field(
        ge=1, description="a user's events of a day's log above which that user is set aside"
    )


class Privacy(Section):
    pseudonyms: bool = Field(description="off leaves raw user ids everywhere")
    key_file: str = Field(
        description="key of the pseudonyms (mode 600, made at first use); "
        "the environment variable RECSYS_PSEUDONYM_KEY wins over it"
    )
    user_attributes: tuple[str, ...] = Field(
        description="attributes of the log's file of users that are read (personal data, as the "
        "log's format names them); none reads no such file, and what was read before goes"
    )


class Gold(Section):
    sequence_length: int = Field(ge=2, le=4096, description="events of a user a model sees")
    length_buckets: tuple[int, ...] = Field(
        min_length=1, description="padded lengths, ascending; the last is sequence_length"
    )
    rows_per_row_group: int = Field(
        ge=1, description="most rows of a training file (one row group each)"
    )
    min_row_groups: int = Field(ge=1, description="training files at least, where rows allow it")
    holdout_days: int = Field(
        ge=1,
        description="last days before the end of the run date that "
        "are held out from training and compared by the gate",
    )
    validation_share: float = Field(
        gt=0, lt=0.5, description="share of users whose windows choose the best epoch"
    )


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
    full_every_days: int = Field(
        ge=1,
        description="days after which every user is scored even where model and candidates stay "
        "the same; between, lists of users who did nothing are carried over. 1: every night",
    )


class Tracking(Section):
    uri: str | None = Field(
        description="MLflow server or store; null is SQLite under the lake (a local lake)"
    )
    experiment: str = Field(min_length=1, description="MLflow experiment")
    model_name: str = Field(min_length=1, description="registered model")
    timeout_seconds: int = Field(ge=1, description="wait for a server before giving up")


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
        buckets = self.gold.length_buckets
        ascend = list(buckets) == sorted(set(buckets)) and buckets[0] >= 1
        if not ascend or buckets[-1] != self.gold.sequence_length:
            raise ValueError(
                f"gold.length_buckets={list(buckets)} must ascend from 1 or more and end with "
                f"gold.sequence_length={self.gold.sequence_length}"
            )
        if self.task not in TASKS[self.model.kind]:
            raise ValueError(
                f"train.task={self.train.task} can't be learned by model.kind={self.model.kind}, "
                f"which learns {', '.join(TASKS[self.model.kind])}"
            )
        if self.ranker.enabled and self.task == "click_ranking":
            raise ValueError(
                f"ranker.enabled orders what another model finds: model.kind={self.model.kind} "
                "needs ranker.enabled=false"
            )
        if self.model.dims % self.model.heads:
            raise ValueError(
                f"model.heads={self.model.heads} must divide model.dims={self.model.dims}"
            )
        if self.model.positions == "rotary" and self.model.dims // self.model.heads % 2:
            raise ValueError(
                f"model.positions=rotary turns pairs of dims: model.dims={self.model.dims} over "
                f"model.heads={self.model.heads} must be even"
            )
        if self.generate.users <= self.generate.categories // 2:
            raise ValueError("generate.users must be more than half of generate.categories")
        check_rules(self.rules, self.score.n, self.privacy.user_attributes)
        return self

    @model_validator(mode="after")
    def _check_ranks(self) -> Settings:
        train = self.train
        if train.launcher == "single" and train.ranks != 1:
            raise ValueError(f"train.launcher=single needs train.ranks=1, not {train.ranks}")
        if train.elastic and train.launcher != "horovodrun":
            raise ValueError(
                f"train.min_ranks={train.min_ranks} (elastic) needs train.launcher=horovodrun, "
                f"not {train.launcher}"
            )
        for name in ("max_ranks", "discovery_script"):
            if getattr(train, name) is not None and not train.elastic:
                raise ValueError(f"train.{name} is for elastic training: set train.min_ranks too")
        for name in ("fusion_mb", "cycle_ms"):
            if train.elastic and getattr(train.exchange, name) is not None:
                # See rank_environment.
                raise ValueError(
                    f"train.exchange.{name} can't be set for elastic training (train.min_ranks): "
                    "Horovod can't start again with it; set it to null"
                )
        if train.elastic and not (train.min_ranks or 1) <= train.ranks <= train.most_ranks:
            raise ValueError(
                f"train.ranks={train.ranks}, with which an elastic training begins, must lie "
                f"between train.min_ranks={train.min_ranks} and train.max_ranks={train.max_ranks}"
            )
        return self

    @model_validator(mode="after")
    def _check_pipeline(self) -> Settings:
        check_pipeline(self)
        return self

    @model_validator(mode="after")
    def _check_task(self) -> Settings:
        model, train = self.model, self.train
        tuned = model.kind == "transformer" and self.task in FINE_TUNING
        if model.head != "none" and not tuned:
            raise ValueError(
                f"model.head={model.head} is for the tasks {', '.join(FINE_TUNING)} of a "
                f"transformer, not for train.task={self.task}"
            )
        if model.head == "none" and tuned and self.task != "purchase":
            raise ValueError(f"train.task={self.task} needs model.head=linear")
        if train.label_share < 1 and not tuned:
            raise ValueError(
                f"train.label_share={train.label_share} is for the tasks {', '.join(FINE_TUNING)} "
                f"of a transformer, not for train.task={self.task}"
            )
        predicts = self.task == "pretraining" and train.pretraining.attribute_weight > 0
        if predicts and not model.attributes:
            raise ValueError(
                f"train.pretraining.attribute_weight={train.pretraining.attribute_weight} needs "
                "model.attributes=true"
            )
        return self

    @model_validator(mode="after")
    def _check_start(self) -> Settings:
        model, train = self.model, self.train
        if train.online and (model.kind != "matrix_factorization" or not train.start_from):
            raise ValueError(
                f"train.online=true needs model.kind=matrix_factorization, not {model.kind}, and a "
                "model to go on from (train.start_from, champion say)"
            )
        if train.online and train.weight_decay:
            raise ValueError(
                f"train.weight_decay={train.weight_decay} moves what no new rating touches: "
                "set it to 0, or train.online=false"
            )
        if train.start_from == "champion" and model.kind == "transformer" and model.attributes:
            raise ValueError(
                "train.start_from=champion can't go with model.attributes=true: the words of "
                "attributes are numbered anew each night; set one of them off"
            )
        return self
