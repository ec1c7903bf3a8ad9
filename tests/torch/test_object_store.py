"""Which store a training file's url leads to; reading from one is tested on a real server."""

from __future__ import annotations

import pytest

from recsys.errors import TrainingError
from recsys.schemas import DataFile
from recsys.train.object_store import as_path, find_store
from recsys.train.petastorm_reader import read_row_groups
from recsys.train.rows import Channels

pytestmark = pytest.mark.torch

NOWHERE = "http://127.0.0.1:9"


def test_only_s3_gets_a_store() -> None:
    assert find_store("s3a://bucket/a.parquet", {"endpoint": NOWHERE}) is not None
    assert find_store("file:///lake/a.parquet", {"endpoint": NOWHERE}) is None
    assert find_store("hdfs://host:8020/lake/a.parquet", {"endpoint": NOWHERE}) is None
    assert (
        as_path("s3a://bucket/split=train/a b.parquet") == "file:///bucket/split=train/a b.parquet"
    )


def test_hdfs_without_its_native_client_says_how_to_train_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Where a machine has libhdfs, this finds none either.
    monkeypatch.setenv("ARROW_LIBHDFS_DIR", "/nowhere")
    monkeypatch.delenv("HADOOP_HOME", raising=False)
    file = DataFile("hdfs://127.0.0.1:9/lake/a.parquet", "train", 9, 5)
    with pytest.raises(TrainingError, match="hdfs") as caught:
        next(read_row_groups([file], 1, Channels()))
    assert "feed.stage_dir" in str(caught.value)
