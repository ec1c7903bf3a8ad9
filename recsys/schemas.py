"""Every table of the lake: columns, types, keys, partitioning, meaning.

Every column name in the system is written here once. Types are Spark SQL type names, so this
module needs no engine: Spark parses ``Table.ddl``, the feed reads ``Table.names``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEMA_VERSION = 1
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
# Id maps.
FIRST_SEEN = "first_seen"
TITLE = "title"
ATTRIBUTES = "attributes"
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
# Item statistics.
EVENTS = "events"
USERS = "users"
# Lists.
RUN_DATE = "run_date"
MODEL_VERSION = "model_version"
RECOMMENDATIONS = "recommendations"
RANK = "rank"
SCORE = "score"
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

EVENT_TYPE_CODES = {"view": 1, "click": 2, "cart": 3, "purchase": 4, "rating": 5}
"""Event types and their dense codes in sequences; 0 is padding."""

TRAIN_SPLIT = "train"
VALIDATION_SPLIT = "validation"


@dataclass(frozen=True)
class Column:
    """One column: its name, Spark SQL type and meaning (with the unit where it has one)."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table of the lake.

    ``name`` is also the path under ``lake.root``; ``key`` is unique within the table. Delta keeps
    the smallest and largest value a file of ``filtered_by`` alone: what no reader filters by would
    cost time, and put pieces of raw records into the table's log.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: tuple[str, ...] = field(default=())
    filtered_by: tuple[str, ...] = field(default=())

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def ddl(self) -> str:
        return ", ".join(f"`{column.name}` {column.type}" for column in self.columns)


_SOURCE = (
    Column(SOURCE_FILE, "string", "raw file, relative to the input path"),
    Column(SOURCE_OFFSET, "bigint", "record's number within the file, from 1 (text: the line)"),
    Column(RAW, "string", "the record as it came; a Parquet row as JSON"),
)
_INGEST_DATE = Column(INGEST_DATE, "date", "run date of the night that read the record")

BRONZE_EVENTS = Table(
    "bronze/events",
    "one raw record as it came",
    (*_SOURCE, _INGEST_DATE),
    key=(SOURCE_FILE, SOURCE_OFFSET),
    partition_by=(INGEST_DATE,),
)
BRONZE_REJECTS = Table(
    "bronze/rejects",
    "one record that could not become an event",
    (*_SOURCE, Column(REASON, "string", "why it was rejected"), _INGEST_DATE),
    key=(SOURCE_FILE, SOURCE_OFFSET),
    partition_by=(INGEST_DATE,),
)
SILVER_EVENTS = Table(
    "silver/events",
    "one thing a user did with an item, once",
    (
        Column(EVENT_ID, "string", "hash of user, item, type, time, rating and value"),
        Column(USER_ID, "string", "pseudonym (the raw id where privacy.pseudonyms is off)"),
        Column(ITEM_ID, "string", "as the log wrote it"),
        Column(EVENT_TYPE, "string", "view, click, cart, purchase or rating"),
        Column(RATING, "float", "1 to 5, or null"),
        Column(VALUE, "double", "amount in the log's currency, or null"),
        Column(EVENT_TS, "timestamp", "UTC"),
        Column(EVENT_DATE, "date", "UTC date of event_ts"),
        _INGEST_DATE,
    ),
    key=(EVENT_ID,),
    partition_by=(EVENT_DATE,),
    filtered_by=(EVENT_TS, INGEST_DATE),
)
SILVER_USERS = Table(
    "silver/users",
    "pseudonym to dense index; append-only, an index is never given to another id",
    (
        Column(USER_ID, "string", "pseudonym"),
        Column(USER_IDX, "int", "dense, from 1"),
        Column(FIRST_SEEN, "date", "UTC date of the first event known when the row was added"),
        Column(INGEST_DATE, "date", "run date of the night that added the row"),
    ),
    key=(USER_ID,),
    filtered_by=(USER_IDX,),
)
SILVER_ITEMS = Table(
    "silver/items",
    "item id to dense index, with what the catalogue says; indices are append-only",
    (
        Column(ITEM_ID, "string", "as the log wrote it"),
        Column(ITEM_IDX, "int", "dense, from 1"),
        Column(FIRST_SEEN, "date", "UTC date of the first event known when the row was added"),
        Column(TITLE, "string", "for people; null where the catalogue has none"),
        Column(ATTRIBUTES, "map<string,string>", "other columns of the catalogue"),
    ),
    key=(ITEM_ID,),
    filtered_by=(ITEM_IDX,),
)
SILVER_USER_VAULT = Table(
    "silver/user_vault",
    "raw user id to pseudonym; may lie elsewhere with other rights (lake.vault_root)",
    (
        Column(RAW_USER_ID, "string", "as the log wrote it"),
        Column(USER_ID, "string", "pseudonym"),
    ),
    key=(RAW_USER_ID,),
)
_USER_IDX = Column(USER_IDX, "int", "dense user index, from 1")
_SEEN_ITEMS = Column(SEEN_ITEMS, "array<int>", "every item the user ever touched, ascending")
GOLD_SEQUENCES = Table(
    "gold/sequences",
    "each user's last gold.sequence_length events, for scoring",
    (
        _USER_IDX,
        Column(USER_ID, "string", "pseudonym"),
        Column(ITEMS, "array<int>", "item indices, oldest first, repeats in a row kept once"),
        Column(EVENT_TYPES, "array<int>", "codes of schemas.EVENT_TYPE_CODES"),
        Column(EVENT_TIMES, "array<bigint>", "Unix seconds, UTC"),
        Column(LENGTH, "int", "the user's events in all, before cutting"),
        _SEEN_ITEMS,
        Column(BUCKET, "int", "smallest of gold.length_buckets that holds the sequence"),
    ),
    key=(USER_IDX,),
    partition_by=(BUCKET,),
)
GOLD_TRAINING_SEQUENCES = Table(
    "gold/training_sequences",
    "all history before the hold-out, cut into windows padded in front to their bucket's length",
    (
        _USER_IDX,
        Column(WINDOW, "int", "0 is the user's newest window"),
        Column(ITEMS, "array<int>", "item indices, oldest first, zeros in front"),
        Column(EVENT_TYPES, "array<int>", "codes, zeros in front"),
        Column(EVENT_TIMES, "array<bigint>", "Unix seconds, zeros in front"),
        Column(LENGTH, "int", "true length of the window"),
        Column(SPLIT, "string", "train or validation (by user)"),
        Column(BUCKET, "int", "padded length of the arrays"),
    ),
    key=(USER_IDX, WINDOW),
    partition_by=(SPLIT, BUCKET),
)
GOLD_HOLDOUT = Table(
    "gold/holdout",
    "users with events in the held-out days: what was known before, what came after",
    (
        _USER_IDX,
        Column(ITEMS, "array<int>", "last items before the hold-out, oldest first"),
        Column(LENGTH, "int", "events before the hold-out"),
        Column(SEEN_ITEMS, "array<int>", "every item touched before the hold-out, ascending"),
        Column(TARGETS, "array<int>", "items first touched in the hold-out, ascending"),
    ),
    key=(USER_IDX,),
)
GOLD_RATINGS = Table(
    "gold/ratings",
    "each user's latest rating of an item",
    (
        _USER_IDX,
        Column(ITEM_IDX, "int", "dense item index, from 1"),
        Column(RATING, "float", "1 to 5"),
        Column(EVENT_TS, "timestamp", "UTC"),
    ),
    key=(USER_IDX, ITEM_IDX),
)
GOLD_ITEM_STATS = Table(
    "gold/item_stats",
    "popularity and freshness by item and date",
    (
        Column(ITEM_IDX, "int", "dense item index, from 1"),
        Column(EVENT_DATE, "date", "UTC"),
        Column(EVENTS, "bigint", "events of that day"),
        Column(USERS, "bigint", "different users of that day"),
        Column(FIRST_SEEN, "date", "the item's first date in the log"),
    ),
    key=(ITEM_IDX, EVENT_DATE),
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
            "best first, rank from 1; reason is 'model' or the fallback's name",
        ),
    ),
    key=(USER_ID, RUN_DATE),
    partition_by=(RUN_DATE,),
    filtered_by=(USER_ID,),
)
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
        Column("lists", "bigint", "published lists"),
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

TABLES = (
    BRONZE_EVENTS,
    BRONZE_REJECTS,
    SILVER_EVENTS,
    SILVER_USERS,
    SILVER_ITEMS,
    SILVER_USER_VAULT,
    GOLD_SEQUENCES,
    GOLD_TRAINING_SEQUENCES,
    GOLD_HOLDOUT,
    GOLD_RATINGS,
    GOLD_ITEM_STATS,
    GOLD_TOP_N,
    OPS_PUBLISHED,
    OPS_RUNS,
    OPS_LAKE,
)


@dataclass(frozen=True)
class DataFile:
    """One Parquet file (one row group) of a pinned table version.

    Attributes:
        url: ``file:///…``, ``hdfs://…`` or ``s3a://…``, percent-encoded as Spark names files.
        split: ``train`` or ``validation``.
        bucket: padded length of its arrays.
        rows: number of rows.
    """

    url: str
    split: str
    bucket: int
    rows: int


@dataclass(frozen=True)
class PinnedTable:
    """Where Spark and training meet: the files of one version of gold/training_sequences.

    ``files`` come in an order that depends only on their content, never on their names, so that
    a rebuilt but equal table trains to the same weights.
    """

    name: str
    version: int
    files: tuple[DataFile, ...]
