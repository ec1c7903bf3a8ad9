"""Lines about a job under way come from Spark's own count of tasks."""

from __future__ import annotations

import threading
import time

import pytest
from pyspark.sql import SparkSession

from recsys.score import progress as module
from recsys.score.progress import describe, progress

pytestmark = pytest.mark.spark


def test_lines_say_what_is_left() -> None:
    assert describe("lists", 0, 8, 9.0) == "  lists: 0 of 8 tasks done"
    assert describe("lists", 2, 8, 10.0) == "  lists: 2 of 8 tasks done, about 30 s left"
    assert describe("lists", 10, 1000, 60.0) == "  lists: 10 of 1,000 tasks done, about 99 min left"


def test_a_job_tells_of_its_tasks(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job goes on until a line was said: no clock decides."""
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(module, "_FIRST_AFTER", 0.0)
    context, said, enough = spark.sparkContext, [], threading.Event()

    def say(line: str) -> None:
        said.append(line)
        enough.set()

    with progress(context, "lists", say):
        while not enough.is_set():
            context.parallelize(range(4), 4).foreach(lambda _: time.sleep(0.2))
    assert "of 4 tasks done" in said[0]
    assert context.getLocalProperty("spark.jobGroup.id") is None
    count = len(said)
    context.parallelize(range(4), 4).foreach(lambda _: time.sleep(0.2))
    assert len(said) == count
