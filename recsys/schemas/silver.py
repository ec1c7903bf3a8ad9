"""Events, and who and what they are about."""

from __future__ import annotations

from recsys.schemas.bronze import INGESTED
from recsys.schemas.names import (
    ATTRIBUTES,
    EVENT_DATE,
    EVENT_ID,
    EVENT_TS,
    EVENT_TYPE,
    EVENTS,
    FIRST_SEEN,
    INGEST_DATE,
    ITEM_ID,
    ITEM_IDX,
    LOG_DATE,
    RATING,
    RAW_USER_ID,
    TITLE,
    USER_ID,
    USER_IDX,
    VALUE,
)
from recsys.schemas.table import Column, Table

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
        INGESTED,
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
        Column(
            FIRST_SEEN,
            "date",
            "UTC date of the first event known when the row was added (the run date for a user "
            "that the file of users alone names); null: the user was erased",
        ),
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
SILVER_SET_ASIDE = Table(
    "silver/set_aside",
    "users above silver.max_user_events_per_day: bots, shared accounts; their events of that day "
    "are in bronze alone",
    (
        Column(USER_ID, "string", "pseudonym"),
        Column(LOG_DATE, "date", "day of the log (of a snapshot: of the events)"),
        Column(EVENTS, "bigint", "events set aside"),
        INGESTED,
    ),
    key=(USER_ID, LOG_DATE, INGEST_DATE),
    filtered_by=(INGEST_DATE,),
)
SILVER_USER_ATTRIBUTES = Table(
    "silver/user_attributes",
    "what the log's file of users says of them, as far as privacy.user_attributes names it; empty "
    "where it names nothing",
    (
        Column(USER_ID, "string", "pseudonym"),
        Column(
            ATTRIBUTES,
            "map<string,string>",
            "by our name; numbers in bands where the format has some",
        ),
    ),
    key=(USER_ID,),
    rewritten=True,
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
