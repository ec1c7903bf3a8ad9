"""A lake that version 1 of this project wrote (tests/legacy) is refused, migrated and used on."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.formats import load_format
from recsys.lake.migrations import migrate, pending
from recsys.lake.publish import live_lists
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
from recsys.steps.runner import run_night

pytestmark = [pytest.mark.spark, pytest.mark.long]

LEGACY = Path(__file__).resolve().parent.parent / "legacy"


def test_a_lake_of_version_1_is_migrated_and_goes_on(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    with tarfile.open(LEGACY / "lake_v1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    lake = make_lake(
        f"input.path={tmp_path}/log", "gold.sequence_length=16", "gold.length_buckets=[4,16]"
    )
    lists = live_lists(lake).count()
    windows = lake.version(schemas.GOLD_TRAINING_SEQUENCES)
    said: list[str] = []
    night = Context(
        lake.settings, load_format("generated"), date(2026, 1, 3), lake, say=said.append
    )
    with pytest.raises(LakeError) as caught:
        run_night(night, (INGEST,))
    assert "recsys lake migrate" in caught.value.do

    steps = pending(lake)
    assert [step.version for step in steps] == [2, 3]
    for _ in range(2):  # cut off before it was noted, it is done again
        for step in steps:
            step.run(lake)
    for step in steps:
        migrate(lake, step)
    assert pending(lake) == []

    run_night(night, (INGEST, BUILD_SILVER, BUILD_GOLD))
    assert any("from all events" in line for line in said)
    known = lake.read(schemas.SILVER_USERS).count()
    assert lake.read(schemas.GOLD_SEQUENCES).count() == known
    assert lake.read(schemas.GOLD_TRAINING_SEQUENCES).columns == (
        schemas.GOLD_TRAINING_SEQUENCES.names
    )
    # What was live stays readable, and so do the old windows, in their old shape.
    assert live_lists(lake).count() == lists
    assert "context" not in lake.read(schemas.GOLD_TRAINING_SEQUENCES, windows).columns
