"""Pseudonyms: HMAC in Spark equals Python's, and the key stays where it belongs."""

from __future__ import annotations

import hashlib
import hmac
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import Settings, load_settings
from recsys.errors import ConfigError, LakeError
from recsys.lake.pseudonyms import KEY_VARIABLE, add_pseudonyms, check_key, load_key, pseudonym
from recsys.lake.tables import Lake

pytestmark = pytest.mark.spark

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@settings(
    max_examples=3, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(key=st.binary(min_size=16, max_size=200), ids=st.lists(texts, min_size=1, max_size=60))
@example(key=b"k" * 64, ids=["", "ü", "\x00", "😀", "a" * 1000])
@example(key=b"k" * 65, ids=["", "1", "١", "e\u0301"])
@example(key=bytes(range(256)), ids=["a"])
def test_pseudonyms_equal_hmac_sha_256_of_python(
    spark: SparkSession, key: bytes, ids: list[str]
) -> None:
    rows = spark.createDataFrame([(text,) for text in ids], "raw_user_id string")
    found = add_pseudonyms(rows, key).collect()
    expected = [hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32] for text in ids]
    assert [row["user_id"] for row in found] == expected
    assert [pseudonym(key, text) for text in ids] == expected


def test_off_leaves_raw_ids(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("ü",)], "raw_user_id string")
    assert add_pseudonyms(rows, None).collect()[0]["user_id"] == pseudonym(None, "ü") == "ü"


def test_key_is_not_in_the_plan(spark: SparkSession) -> None:
    key = b"very secret key of this test, really"
    rows = spark.createDataFrame([("a",)], "raw_user_id string")
    frame = add_pseudonyms(rows, key)
    frame.collect()
    plan = frame._jdf.queryExecution().toString()
    block = key.ljust(64, b"\0")
    pads = [bytes(byte ^ pad for byte in block) for pad in (0x36, 0x5C)]
    assert "Project" in plan
    for secret in (key, *pads):
        shown = secret[:8]
        forms = [shown.hex(), ", ".join(str(byte) for byte in shown), shown.decode("latin-1")]
        assert not [form for form in forms if form.lower() in plan.lower()]


@pytest.fixture
def of_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Settings, Path]:
    monkeypatch.delenv(KEY_VARIABLE)
    path = tmp_path / "new/folder/pseudonym.key"
    return load_settings(None, ["lake.root=unused", f"privacy.key_file={path}"]), path


def test_key_file_is_made_once_for_its_owner_alone(of_file: tuple[Settings, Path]) -> None:
    found, path = of_file
    key = load_key(found)
    assert key is not None
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(found) == key
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_key_file_that_others_can_read_is_refused(of_file: tuple[Settings, Path]) -> None:
    found, path = of_file
    load_key(found)
    path.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load_key(found)
    assert caught.value.what == "the pseudonym key can be read by others"
    assert caught.value.do == f"chmod 600 {path}"


def test_short_key_and_unreadable_key_file_are_refused(
    of_file: tuple[Settings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, path = of_file
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(ConfigError, match="can't be read or made: Is a directory"):
        load_key(found)
    path.rmdir()
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="shorter than 16 bytes"):
        load_key(found)
    monkeypatch.setenv(KEY_VARIABLE, "fifteen bytes..")
    with pytest.raises(ConfigError, match="shorter than 16 bytes") as caught:
        load_key(found)
    assert KEY_VARIABLE in caught.value.where


def test_environment_wins_over_the_file_and_off_needs_no_key(
    of_file: tuple[Settings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, path = of_file
    monkeypatch.setenv(KEY_VARIABLE, "sixteen bytes...")
    assert load_key(found) == b"sixteen bytes..."
    assert load_key(load_settings(None, ["lake.root=x", "privacy.pseudonyms=off"])) is None
    assert not path.exists()


def test_another_key_is_refused_and_the_lake_does_not_hold_the_key(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake, key = make_lake(), b"the key this lake was made with"
    check_key(lake, key)
    check_key(lake, key)
    for other in (b"not the key this lake was made w", None):
        with pytest.raises(LakeError, match="is not the one that this lake was made") as caught:
            check_key(lake, other)
        assert caught.value.where == lake.path(schemas.OPS_LAKE)
        assert "restore the old key" in caught.value.do
    assert lake.read(schemas.OPS_LAKE).count() == 1
    for path in (tmp_path / "lake").rglob("*"):
        assert not path.is_file() or key not in path.read_bytes()
