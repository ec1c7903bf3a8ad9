"""What tests of lists begin with."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from tests.spark.scored_lists import Scored, score_once


@pytest.fixture(scope="module")
def scored(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """A small lake whose users were scored once, of its own for each module."""
    return score_once(spark, tmp_path_factory.mktemp("score"))
