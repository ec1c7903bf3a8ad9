"""The checks of each table."""

from __future__ import annotations

from recsys import schemas
from recsys.checks.kinds import (
    Dense,
    Fresh,
    Mix,
    RowRule,
    Rows,
    RowShareRise,
    ShareRise,
    TableChecks,
    Unique,
    Volume,
    between,
    not_null,
    one_of,
    same_length,
)

_EVENT_TYPES = tuple(schemas.EVENT_TYPE_CODES)
_CODES = (1, len(_EVENT_TYPES))

CHECKS = (
    TableChecks(
        schemas.BRONZE_EVENTS,
        "ingest",
        (Rows("records"), not_null(schemas.SOURCE_FILE), Dense(schemas.SOURCE_OFFSET)),
        night=schemas.INGEST_DATE,
        group=schemas.SOURCE_FILE,
    ),
    TableChecks(
        schemas.BRONZE_REJECTS,
        "build_silver",
        (
            Rows("rejects"),
            not_null(schemas.SOURCE_FILE, schemas.SOURCE_OFFSET, schemas.REASON),
            Unique("rejects"),
            ShareRise("rejects", "read", yellow=0.01, red=0.05),
        ),
        night=schemas.INGEST_DATE,
    ),
    TableChecks(
        schemas.SILVER_EVENTS,
        "build_silver",
        (
            Rows("events"),
            Unique("events", within=schemas.EVENT_DATE),
            not_null(schemas.EVENT_ID, schemas.USER_ID, schemas.ITEM_ID, schemas.EVENT_TS),
            one_of(schemas.EVENT_TYPE, _EVENT_TYPES),
            between(schemas.RATING, 1, 5),
            RowRule(
                "value is finite",
                f"{schemas.VALUE} is null or abs({schemas.VALUE}) < double('infinity')",
            ),
            RowRule(
                "event_date is of event_ts",
                f"{schemas.EVENT_DATE} = to_date({schemas.EVENT_TS})",
            ),
            Fresh(schemas.EVENT_TS, yellow=24, red=72),
            Volume(schemas.EVENT_DATE, yellow=1.5, red=2),
            Mix(schemas.EVENT_TYPE, _EVENT_TYPES, yellow=0.1, red=0.25),
            ShareRise("duplicates", "read", yellow=0.05, red=0.2),
        ),
        night=schemas.INGEST_DATE,
        group=schemas.EVENT_DATE,
    ),
    TableChecks(
        schemas.SILVER_USERS,
        "build_silver",
        (not_null(schemas.USER_ID), Unique("new_users"), Dense(schemas.USER_IDX)),
    ),
    TableChecks(
        schemas.SILVER_ITEMS,
        "build_silver",
        (not_null(schemas.ITEM_ID), Unique("new_items"), Dense(schemas.ITEM_IDX)),
    ),
    TableChecks(
        schemas.SILVER_USER_VAULT,
        "build_silver",
        (not_null(schemas.RAW_USER_ID, schemas.USER_ID), Unique("new_users")),
    ),
    TableChecks(
        schemas.GOLD_SEQUENCES,
        "build_gold",
        (
            Rows("sequences"),
            Unique("sequences"),
            same_length(schemas.ITEMS, schemas.EVENT_TYPES, schemas.EVENT_TIMES),
            RowRule(
                "size up to bucket and length",
                f"size({schemas.ITEMS}) between 1 and least({schemas.BUCKET}, {schemas.LENGTH})",
            ),
            RowRule(
                "items and codes are none of padding",
                f"array_min({schemas.ITEMS}) > 0 and array_min({schemas.EVENT_TYPES}) >= "
                f"{_CODES[0]} and array_max({schemas.EVENT_TYPES}) <= {_CODES[1]}",
            ),
        ),
    ),
    TableChecks(
        schemas.GOLD_TRAINING_SEQUENCES,
        "build_gold",
        (
            Unique("training_windows"),
            same_length(schemas.ITEMS, schemas.EVENT_TYPES, schemas.EVENT_TIMES),
            one_of(schemas.SPLIT, (schemas.TRAIN_SPLIT, schemas.VALIDATION_SPLIT)),
            RowRule(
                "padded to bucket, true length within",
                f"size({schemas.ITEMS}) = {schemas.BUCKET} and "
                f"{schemas.CONTEXT} < {schemas.LENGTH} and "
                f"{schemas.LENGTH} between 1 and {schemas.BUCKET}",
            ),
            RowRule(
                "true items end the window",
                f"get({schemas.ITEMS}, size({schemas.ITEMS}) - 1) > 0 and "
                f"get({schemas.ITEMS}, size({schemas.ITEMS}) - {schemas.LENGTH}) > 0",
            ),
        ),
        # What was final before was checked when it became so.
        night_rows=(
            schemas.OPEN, f"not {schemas.OPEN} and {schemas.SETTLED_ON} = date'{{night}}'",
        ),
    ),
    TableChecks(
        schemas.GOLD_HOLDOUT,
        "build_gold",
        (
            Rows("holdout_users"),
            Unique("holdout_users"),
            RowRule("has targets", f"size({schemas.TARGETS}) > 0"),
            between(schemas.LENGTH, 0),
        ),
    ),
    TableChecks(
        schemas.GOLD_RATINGS,
        "build_gold",
        (
            Unique("events"),
            not_null(schemas.USER_IDX, schemas.ITEM_IDX, schemas.RATING, schemas.EVENT_TS),
            between(schemas.RATING, 1, 5),
        ),
        night=schemas.EVENT_DATE,
    ),
    TableChecks(
        schemas.GOLD_ITEM_STATS,
        "build_gold",
        (
            Unique("events"),
            RowRule(
                "users up to events", f"{schemas.USERS} between 1 and {schemas.EVENTS}"
            ),
        ),
        night=schemas.EVENT_DATE,
    ),
    TableChecks(
        schemas.GOLD_TRAINING_EXAMPLES,
        "train",
        (
            Unique("rows_in"),
            same_length(schemas.ITEMS, schemas.EVENT_TYPES, schemas.EVENT_TIMES, schemas.LABELS),
            one_of(schemas.SPLIT, (schemas.TRAIN_SPLIT, schemas.VALIDATION_SPLIT)),
            RowRule(
                "padded to bucket, a true item last",
                f"size({schemas.ITEMS}) = {schemas.BUCKET} and "
                f"get({schemas.ITEMS}, size({schemas.ITEMS}) - 1) > 0 and "
                f"{schemas.CONTEXT} < {schemas.BUCKET}",
            ),
        ),
    ),
    TableChecks(
        schemas.GOLD_ITEM_LINKS,
        "train",
        (
            Unique("item_links"),
            not_null(schemas.ITEM_IDX, schemas.LINKED),
            RowRule("weight above 0", f"{schemas.WEIGHT} > 0"),
        ),
    ),
    TableChecks(
        schemas.GOLD_USER_LINKS,
        "train",
        (Unique("user_links"), between(schemas.USER_IDX, 1), between(schemas.LINKED, 1)),
    ),
    TableChecks(
        schemas.GOLD_TOP_N,
        "score_users",
        (
            Rows("rows_out"),
            RowShareRise(
                "share of fallback lists",
                f"get({schemas.RECOMMENDATIONS}, 0).{schemas.REASON} != 'model'",
                yellow=0.05,
                red=0.3,
            ),
        ),
        night=schemas.RUN_DATE,
    ),
)  # fmt: skip


def of_stage(stage: str) -> list[TableChecks]:
    """What is checked after a stage."""
    return [declared for declared in CHECKS if declared.stage == stage]
