"""Formats of logs: the shipped ones load, and a wrong one says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys.config import conf_dir, load_settings
from recsys.errors import ConfigError
from recsys.lake.formats import load_format

pytestmark = pytest.mark.core

GOOD: dict[str, Any] = {
    "kind": "csv",
    "header": True,
    "layout": "daily",
    "files": "dt={date}/*.csv",
    "columns": {"user_id": "u", "item_id": "i", "event_type": "t", "event_ts": "at"},
    "timestamp": "iso8601",
    "event_types": {"seen": "view"},
}
NUMBERED = {"user_id": 0, "item_id": 1, "event_type": 2, "event_ts": 3}


def write(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return str(path)


@pytest.mark.parametrize(
    "path", sorted((conf_dir() / "formats").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_formats_load_with_their_settings(path: Path) -> None:
    log = load_format(path.stem)
    assert log == load_format(str(path))
    load_settings(None, [], log.settings)


def test_a_format_of_ones_own_is_given_by_its_path(tmp_path: Path) -> None:
    assert load_format(write(tmp_path)).event_types == {"seen": "view"}


def test_unknown_format_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        load_format("movielense")
    assert caught.value.what == "input.format=movielense is not known"
    assert "did you mean movielens?" in caught.value.do


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": {**GOOD["columns"], "user": "x"}}, "columns: user is not one of"),
        ({"columns": {"user_id": "u"}}, "columns: item_id is missing"),
        ({"header": False}, "a csv without header needs column numbers from 0"),
        ({"columns": NUMBERED}, "this log names its columns, so numbers are not allowed"),
        ({"header": False, "columns": {**NUMBERED, "user_id": -1}}, "column numbers from 0"),
        ({"files": "*.csv"}, "a daily layout needs {date} in the pattern"),
        ({"files": "{eu,us}/{date}.csv"}, "files: a daily layout knows *, ? and {date} only"),
        ({"header": False, "columns": NUMBERED, "width": 3}, "width: 3 columns have no number 3"),
        ({"event_types": {"seen": "look"}}, "event_types: look is not one of view, click"),
        ({"time_zone": "Mars/Olympus"}, "time_zone: Mars/Olympus is not a time zone"),
        ({"delimiter": ""}, "delimiter"),
        ({"colour": "red"}, "colour"),
        ({"tolerated_rejects": ["after_rundate"]}, "tolerated_rejects: after_rundate is not one of"),  # noqa: E501
    ],
)  # fmt: skip
def test_wrong_format_names_file_and_key(changes: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        load_format(path)
    assert said in caught.value.what
    assert caught.value.where == path


def test_format_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="can't be read"):
        load_format(str(path))
