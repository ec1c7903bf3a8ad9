"""What nights did, what is live, and how good the tables are."""

from __future__ import annotations

from recsys.schemas.names import (
    ACCEPTED,
    CHECK,
    COLUMN,
    DETAILS,
    FIGURES,
    FINGERPRINT,
    ITEMS_VERSION,
    KEY,
    LIMIT,
    LISTS,
    MESSAGE,
    MODEL_NAME,
    MODEL_VERSION,
    PUBLISHED_AT,
    RECORDS,
    ROWS_IN,
    ROWS_OUT,
    RUN_DATE,
    RUN_ID,
    SECONDS,
    SHARE,
    STAGE,
    STATUS,
    TABLE,
    TABLE_VERSION,
    TABLES_READ,
    TABLES_WRITTEN,
    TOP_N_VERSION,
    TYPE,
    USERS_VERSION,
    VALUE,
)
from recsys.schemas.table import Column, Table

OPS_PUBLISHED = Table(
    "ops/published",
    "which versions are live, since when; one commit flips all",
    (
        Column(RUN_DATE, "date", "the night's date"),
        Column(TOP_N_VERSION, "bigint", "Delta version of gold/top_n"),
        Column(MODEL_NAME, "string", "registered model"),
        Column(MODEL_VERSION, "string", "version in MLflow's registry"),
        Column(USERS_VERSION, "bigint", "Delta version of silver/users"),
        Column(ITEMS_VERSION, "bigint", "Delta version of silver/items"),
        Column(LISTS, "bigint", "published lists"),
        Column(PUBLISHED_AT, "timestamp", "UTC"),
    ),
    key=(RUN_DATE,),
)
OPS_RUNS = Table(
    "ops/runs",
    "one finished or failed stage of a night",
    (
        Column(RUN_ID, "string", "date and the first letters of the fingerprint"),
        Column(RUN_DATE, "date", "the night's date"),
        Column(STAGE, "string", "ingest, build_silver, …"),
        Column(STATUS, "string", "succeeded or failed"),
        Column(FINGERPRINT, "string", "hash of what the stage depends on"),
        Column(ROWS_IN, "bigint", "rows read"),
        Column(ROWS_OUT, "bigint", "rows written"),
        Column(DETAILS, "map<string,string>", "the stage's own figures and names"),
        Column(TABLES_READ, "map<string,bigint>", "table to Delta version"),
        Column(TABLES_WRITTEN, "map<string,bigint>", "table to Delta version"),
        Column(SECONDS, "double", "wall clock"),
        Column(MESSAGE, "string", "the error of a failed stage"),
        Column("finished_at", "timestamp", "UTC"),
    ),
    key=(RUN_ID, STAGE),
    filtered_by=(RUN_DATE,),
)
OPS_LAKE = Table(
    "ops/lake",
    "facts about the whole lake: schema_version, pseudonym_key_check",
    (Column(KEY, "string", "name of the fact"), Column(VALUE, "string", "its value")),
    key=(KEY,),
)
OPS_CHECKS = Table(
    "ops/checks",
    "what a quality check (recsys/checks/) found in a table after a stage of a night",
    (
        Column(RUN_DATE, "date", "the night's date"),
        Column(STAGE, "string", "the stage that wrote the table"),
        Column(TABLE, "string", "its name"),
        Column(TABLE_VERSION, "bigint", "Delta version that was looked at"),
        Column(CHECK, "string", "what was checked, e.g. unique event_id"),
        Column(STATUS, "string", "green, yellow or red"),
        Column(VALUE, "double", "what was found; null where there was nothing to look at"),
        Column(LIMIT, "string", "what is allowed"),
        Column(MESSAGE, "string", "the result in words"),
        Column(FIGURES, "map<string,double>", "what later nights compare with"),
    ),
    key=(RUN_DATE, STAGE, TABLE, CHECK),
    filtered_by=(RUN_DATE,),
)
OPS_LOG_SCHEMAS = Table(
    "ops/log_schemas",
    "a column of a night's raw log; nights whose schema was refused have none",
    (
        Column(RUN_DATE, "date", "the night's date"),
        Column(COLUMN, "string", "as the log names it (a csv without header: its number)"),
        Column(TYPE, "string", "text, number, …; several joined by |"),
        Column(SHARE, "double", "of the records looked at, those that have a value"),
        Column(RECORDS, "bigint", "records looked at"),
        Column(ACCEPTED, "boolean", "whether a changed schema was accepted by hand"),
    ),
    key=(RUN_DATE, COLUMN),
    filtered_by=(RUN_DATE,),
)
