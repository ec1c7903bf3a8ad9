"""Every column name of the system, and the few values that are part of a schema."""

from __future__ import annotations

SCHEMA_VERSION = 3
"""Raised whenever a table changes shape; a lake with a higher number is refused."""

PADDING_IDX = 0
"""Dense indices start at 1; 0 marks padding in sequences."""

# Identifiers outside (as the log wrote them, users as pseudonyms) and inside (dense, from 1).
RAW_USER_ID = "raw_user_id"
USER_ID = "user_id"
ITEM_ID = "item_id"
USER_IDX = "user_idx"
ITEM_IDX = "item_idx"
# Raw records.
SOURCE_FILE = "source_file"
SOURCE_OFFSET = "source_offset"
RAW = "raw"
REASON = "reason"
# Events.
EVENT_ID = "event_id"
EVENT_TYPE = "event_type"
RATING = "rating"
VALUE = "value"
EVENT_TS = "event_ts"
EVENT_DATE = "event_date"
INGEST_DATE = "ingest_date"
LOG_DATE = "log_date"
# Id maps.
FIRST_SEEN = "first_seen"
TITLE = "title"
ATTRIBUTES = "attributes"
USER_ATTRIBUTES = "user_attributes"
# Sequences: parallel arrays, oldest event first.
ITEMS = "items"
EVENT_TYPES = "event_types"
EVENT_TIMES = "event_times"
LENGTH = "length"
BUCKET = "bucket"
SPLIT = "split"
WINDOW = "window"
SEEN_ITEMS = "seen_items"
TARGETS = "targets"
# What the next night goes on from (see lake/sequences.py).
SETTLED = "settled"
SETTLED_COUNT = "settled_count"
RECENT = "recent"
NEW_ITEMS = "new_items"
CONTEXT = "context"
OPEN = "open"
SETTLED_ON = "settled_on"
# What came of events.
LABELS = "labels"
# Item statistics.
EVENTS = "events"
USERS = "users"
# Links of items to attributes and to other items.
KIND = "kind"
LINKED = "linked"
WORD = "word"
WEIGHT = "weight"
# Lists.
RUN_DATE = "run_date"
MODEL_VERSION = "model_version"
RECOMMENDATIONS = "recommendations"
RANK = "rank"
SCORE = "score"
RULES_GROUP = "rules_group"
# Copies of published lists (recsys/export/).
VERSION = "version"
LISTS = "lists"
# Operations.
RUN_ID = "run_id"
STAGE = "stage"
STATUS = "status"
FINGERPRINT = "fingerprint"
ROWS_IN = "rows_in"
ROWS_OUT = "rows_out"
DETAILS = "details"
TABLES_READ = "tables_read"
TABLES_WRITTEN = "tables_written"
SECONDS = "seconds"
MESSAGE = "message"
TOP_N_VERSION = "top_n_version"
MODEL_NAME = "model_name"
USERS_VERSION = "users_version"
ITEMS_VERSION = "items_version"
PUBLISHED_AT = "published_at"
KEY = "key"
# Quality of tables and logs.
TABLE = "table"
TABLE_VERSION = "table_version"
CHECK = "check"
LIMIT = "limit"
FIGURES = "figures"
COLUMN = "column"
TYPE = "type"
RECORDS = "records"
SHARE = "share"
ACCEPTED = "accepted"

EVENT_TYPE_CODES = {"view": 1, "click": 2, "cart": 3, "purchase": 4, "rating": 5}
"""Event types and their dense codes in sequences; 0 is padding."""

MODEL_REASON = "model"
POPULAR_REASON = "popular"
PINNED_REASON = "pinned"
"""Why an item is in a list: the model's score, the popularity fallback, a pin of the rules."""

TRAIN_SPLIT = "train"
VALIDATION_SPLIT = "validation"
