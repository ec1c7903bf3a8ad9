"""What is read of the log's file of users: what the settings name, ages as bands, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ConfigError, InputError
from recsys.lake.formats import UserFile
from recsys.lake.tables import Lake
from recsys.lake.user_attributes import load_user_attributes
from recsys.lake.words import hash_word, words_of
from tests.spark.tiny_logs import build, event, log_format, write_json

pytestmark = pytest.mark.spark

PEOPLE = {
    "file": "users.tsv",
    "user_id": "id",
    "attributes": {"age": "years", "job": "work"},
    "bands": {"age": [18, 25, 35]},
}
ROWS = """id\tyears\twork\tzip
ann\t17\tcook\t12345
bob\t18\tnight nurse\t23456
cid\t34.9\t \t34567
dan\t35\tcook\t45678
eve\tunknown\t\t56789
ann\t25\tcook\t99999
\t30\tcook\t11111
"""


def told(lake: Lake, root: Path) -> dict[str, dict[str, str]] | None:
    log = log_format(users=PEOPLE)
    rows = load_user_attributes(lake, log, str(root), None)
    return None if rows is None else {r["user_id"]: r["attributes"] for r in rows.collect()}


def test_numbers_become_bands_and_what_is_not_named_stays_in_the_file(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    (tmp_path / "users.tsv").write_text(ROWS)
    both = told(make_lake("privacy.user_attributes=[age, job]"), tmp_path)
    assert both == {
        "ann": {"age": "<18", "job": "cook"},  # of two rows the larger: "<18" > "25-35"
        "bob": {"age": "18-25", "job": "night nurse"},
        "cid": {"age": "25-35"},
        "dan": {"age": "35+", "job": "cook"},
        "eve": {},
    }
    jobs = told(make_lake("privacy.user_attributes=[job]"), tmp_path)
    assert jobs is not None
    assert {name for row in jobs.values() for name in row} == {"job"}


def test_without_a_name_the_file_is_not_opened(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    assert told(make_lake(), tmp_path) is None
    write_json(tmp_path / "logs" / "log.json", [event("ann", "a", "08:00:00")])
    (tmp_path / "logs" / "users.tsv").write_text(ROWS)
    lake = make_lake("ingest.max_reject_share=1")
    log = log_format(users=PEOPLE)
    build(lake, log, tmp_path / "logs")
    assert not lake.exists(schemas.SILVER_USER_ATTRIBUTES)
    assert lake.read(schemas.SILVER_USERS).count() == 1


def test_what_is_wrong_with_names_and_files_is_said(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no such attribute") as caught:
        told(make_lake("privacy.user_attributes=[age, zip]"), tmp_path)
    assert "age, job" in str(caught.value)
    lake = make_lake("privacy.user_attributes=[age]")
    with pytest.raises(ConfigError, match="no such attribute"):
        load_user_attributes(lake, log_format(), str(tmp_path), None)
    with pytest.raises(InputError, match="file of users is missing"):
        told(lake, tmp_path)
    (tmp_path / "users.tsv").write_text("id\tage\nann\t3\n")
    with pytest.raises(InputError, match="no column years"):
        told(lake, tmp_path)
    for wrong in ({"zip": [1]}, {"age": []}, {"age": [25, 18]}):
        with pytest.raises(ValidationError, match=r"users\.bands"):
            UserFile.model_validate({**PEOPLE, "bands": wrong})


def test_the_hash_of_a_word_is_the_same_every_night(spark: Any) -> None:
    """As the published algorithm makes them (XXH64, seed 42), so no version may change them."""
    rows = spark.createDataFrame(
        [(1, {"genres": "Drama|War Drama", "year": "1990"}), (2, None)],
        "item_idx int, attributes map<string,string>",
    )
    words = words_of(rows, "item_idx").withColumn("code", hash_word(F.col("word"), 1000))
    assert {(r["item_idx"], r["word"]): r["code"] for r in words.collect()} == {
        (1, "genres=Drama"): 720,
        (1, "genres=War"): 179,
        (1, "year=1990"): 104,
    }
