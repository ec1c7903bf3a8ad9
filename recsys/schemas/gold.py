"""What models train on and score, and the lists."""

from __future__ import annotations

from recsys.schemas.names import (
    BUCKET,
    CONTEXT,
    EVENT_DATE,
    EVENT_TIMES,
    EVENT_TS,
    EVENT_TYPES,
    EVENTS,
    ITEM_ID,
    ITEM_IDX,
    ITEMS,
    KIND,
    LABELS,
    LENGTH,
    LINKED,
    MODEL_REASON,
    MODEL_VERSION,
    NEW_ITEMS,
    OPEN,
    PINNED_REASON,
    POPULAR_REASON,
    RANK,
    RATING,
    REASON,
    RECENT,
    RECOMMENDATIONS,
    RUN_DATE,
    SCORE,
    SEEN_ITEMS,
    SETTLED,
    SETTLED_COUNT,
    SETTLED_ON,
    SPLIT,
    TARGETS,
    USER_ID,
    USER_IDX,
    USERS,
    WEIGHT,
    WINDOW,
)
from recsys.schemas.table import Column, Table

_USER_IDX = Column(USER_IDX, "int", "dense user index, from 1")
_SEEN_ITEMS = Column(SEEN_ITEMS, "array<int>", "every item the user ever touched, ascending")
GOLD_SEQUENCES = Table(
    "gold/sequences",
    "each user's last gold.sequence_length events, for scoring; and what the next night goes on "
    "from",
    (
        _USER_IDX,
        Column(USER_ID, "string", "pseudonym"),
        Column(ITEMS, "array<int>", "item indices, oldest first, repeats in a row kept once"),
        Column(EVENT_TYPES, "array<int>", "codes of schemas.EVENT_TYPE_CODES"),
        Column(EVENT_TIMES, "array<bigint>", "Unix seconds, UTC"),
        Column(LENGTH, "int", "the user's events in all, before cutting"),
        _SEEN_ITEMS,
        Column(BUCKET, "int", "smallest of gold.length_buckets that holds the sequence"),
        Column(
            SETTLED,
            "array<struct<item:int,code:int,seconds:bigint>>",
            "last events that no later night can change, repeats in a row kept once",
        ),
        Column(SETTLED_COUNT, "int", "the user's settled events in all"),
        Column(
            RECENT,
            "array<struct<micros:bigint,item:int,code:int>>",
            "every event of the days that a late event may still fall into",
        ),
        Column(NEW_ITEMS, "array<int>", "items of seen_items that no settled event has"),
    ),
    key=(USER_IDX,),
    partition_by=(BUCKET,),
    rewritten=True,
)
GOLD_TRAINING_SEQUENCES = Table(
    "gold/training_sequences",
    "all history before the hold-out, cut into windows padded in front to their bucket's length",
    (
        _USER_IDX,
        Column(WINDOW, "int", "0 is the user's oldest window"),
        Column(ITEMS, "array<int>", "item indices, oldest first, zeros in front"),
        Column(EVENT_TYPES, "array<int>", "codes, zeros in front"),
        Column(EVENT_TIMES, "array<bigint>", "Unix seconds, zeros in front"),
        Column(LENGTH, "int", "true length of the window"),
        Column(CONTEXT, "int", "first events of it that older windows hold too: inputs alone"),
        Column(SETTLED_ON, "date", "run date from which the window is final; null if it is open"),
        Column(SPLIT, "string", "train or validation (by user)"),
        Column(BUCKET, "int", "padded length of the arrays"),
        Column(OPEN, "boolean", "whether later nights may still change it"),
    ),
    key=(USER_IDX, WINDOW),
    partition_by=(SPLIT, BUCKET, OPEN),
    filtered_by=(SETTLED_ON,),
    rewritten_part=(OPEN, "true"),
)
GOLD_TRAINING_EXAMPLES = Table(
    "gold/training_examples",
    "what a supervised model learns, before the hold-out: windows of events with labels; a window "
    "of one event is a pair of user and item. Written by train for the tasks that need it",
    (
        _USER_IDX,
        Column(WINDOW, "int", "0 is the user's oldest window"),
        Column(ITEMS, "array<int>", "item indices, oldest first, zeros in front"),
        Column(EVENT_TYPES, "array<int>", "codes, zeros in front"),
        Column(EVENT_TIMES, "array<bigint>", "Unix seconds, zeros in front"),
        Column(LABELS, "array<float>", "what came of each event, by the task; NaN: no label"),
        Column(CONTEXT, "int", "first events of it that older windows hold too: inputs alone"),
        Column(SPLIT, "string", "train or validation"),
        Column(BUCKET, "int", "padded length of the arrays"),
    ),
    key=(USER_IDX, WINDOW),
    partition_by=(SPLIT, BUCKET),
    rewritten=True,
)
GOLD_HOLDOUT = Table(
    "gold/holdout",
    "users with events in the held-out days: what was known before, what came after",
    (
        _USER_IDX,
        Column(ITEMS, "array<int>", "last items before the hold-out, oldest first"),
        Column(EVENT_TYPES, "array<int>", "codes of schemas.EVENT_TYPE_CODES"),
        Column(EVENT_TIMES, "array<bigint>", "Unix seconds, UTC"),
        Column(LENGTH, "int", "events before the hold-out"),
        Column(SEEN_ITEMS, "array<int>", "every item touched before the hold-out, ascending"),
        Column(TARGETS, "array<int>", "items first touched in the hold-out, ascending"),
    ),
    key=(USER_IDX,),
    rewritten=True,
)
GOLD_RATINGS = Table(
    "gold/ratings",
    "each user's latest rating of an item on a day",
    (
        _USER_IDX,
        Column(ITEM_IDX, "int", "dense item index, from 1"),
        Column(RATING, "float", "1 to 5"),
        Column(EVENT_TS, "timestamp", "UTC"),
        Column(EVENT_DATE, "date", "UTC date of event_ts"),
    ),
    key=(USER_IDX, ITEM_IDX, EVENT_DATE),
    partition_by=(EVENT_DATE,),
)
GOLD_ITEM_STATS = Table(
    "gold/item_stats",
    "popularity by item and date",
    (
        Column(ITEM_IDX, "int", "dense item index, from 1"),
        Column(EVENT_DATE, "date", "UTC"),
        Column(EVENTS, "bigint", "events of that day"),
        Column(USERS, "bigint", "different users of that day"),
    ),
    key=(ITEM_IDX, EVENT_DATE),
    partition_by=(EVENT_DATE,),
)
ATTRIBUTE_LINKS, NEIGHBOR_LINKS = "attribute", "neighbor"
HASHED_LINKS, USER_LINKS = "hashed", "user"
GOLD_ITEM_LINKS = Table(
    "gold/item_links",
    "what items share: words of their attributes, and other items that the same users had",
    (
        Column(KIND, "string", "attribute, hashed (the same words by their hash) or neighbor"),
        Column(ITEM_IDX, "int", "dense item index, from 1"),
        Column(LINKED, "int", "attribute or hash, from 0, or the other item's item_idx"),
        Column(WEIGHT, "float", "how much the item takes from it"),
    ),
    key=(KIND, ITEM_IDX, LINKED),
    partition_by=(KIND,),
    rewritten=True,
)
GOLD_USER_LINKS = Table(
    "gold/user_links",
    "words of users' attributes by their hash; written by train for models that look at them",
    (
        _USER_IDX,
        Column(LINKED, "int", "hash of a word, from 1"),
    ),
    key=(USER_IDX, LINKED),
    rewritten=True,
)
GOLD_TOP_N = Table(
    "gold/top_n",
    "one list a user and night; ops/published says which version is live",
    (
        Column(RUN_DATE, "date", "the night's date"),
        Column(USER_ID, "string", "pseudonym"),
        Column(MODEL_VERSION, "string", "version in MLflow's registry"),
        Column(
            RECOMMENDATIONS,
            f"array<struct<{RANK}:int,{ITEM_ID}:string,{SCORE}:float,{REASON}:string>>",
            f"best first, rank from 1; reason is {MODEL_REASON}, {POPULAR_REASON} (fallback) or "
            f"{PINNED_REASON} (by a rule); rules may order a list otherwise than by score",
        ),
    ),
    key=(USER_ID, RUN_DATE),
    partition_by=(RUN_DATE,),
    filtered_by=(USER_ID,),
    retention_days=30,
    zorder_by=(USER_ID,),
    # Where item ids are text (lake/session.py), zstd makes them nearly as small as numbers.
    compression="zstd",
)
