"""Settings of the lake and of the way from raw logs to gold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.config.section import Section


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


class Quality(Section):
    block_publish: bool = Field(
        description="a red check of the night stops `publish`; off publishes and warns"
    )
