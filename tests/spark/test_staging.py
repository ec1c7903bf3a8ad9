"""Training files copied by Spark tasks: the same bytes elsewhere, or an error that says why not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.errors import LakeError
from recsys.lake.staging import stage_files
from recsys.train.job import TrainingJob
from recsys.train.petastorm_reader import read_row_groups
from recsys.train.rows import Channels
from tests.training_tables import make_job, make_table

pytestmark = pytest.mark.spark


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    # A folder that a url must encode, with names that look like partitions.
    folder = tmp_path / "a lake/split=train/bucket=9"
    table = make_table(folder, files={9: [5, 3], 17: [2]}, validation={9: [4]})[0]
    links = folder / "links.parquet"
    links.write_bytes(b"links")
    return dataclasses.replace(make_job(tmp_path, table), links={"neighbor": [links.as_uri()]})


def test_the_copies_read_as_the_files_do(spark: Any, job: TrainingJob, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    staged = job.moved(stage_files(spark, job.urls, folder))
    assert len(list(folder.iterdir())) == len(job.urls) == 5
    assert all(url.startswith(folder.as_uri()) for url in staged.urls)
    read = [list(read_row_groups(j.table.files, 1, Channels(hours=True))) for j in (job, staged)]
    assert Path(staged.links["neighbor"][0].removeprefix("file://")).read_bytes() == b"links"
    assert [np.array_equal(*pair) for pair in zip(*read, strict=True)] == [True] * 4


def test_copying_again_mends_what_a_killed_run_left(
    spark: Any, job: TrainingJob, tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    staged = stage_files(spark, job.urls, folder)
    copies = sorted(folder.iterdir())
    before = [copy.read_bytes() for copy in copies]
    copies[0].unlink()
    copies[1].write_bytes(b"half")
    assert stage_files(spark, job.urls, folder) == staged
    assert [copy.read_bytes() for copy in sorted(folder.iterdir())] == before


def test_a_folder_that_can_not_be_made_is_named(
    spark: Any, job: TrainingJob, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LakeError, match="could not be copied") as caught:
        stage_files(spark, job.urls, tmp_path / "file/stage")
    assert str(tmp_path) in str(caught.value)
