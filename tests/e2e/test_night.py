"""Whole nights: what is published, what a re-run changes, what a kill at any stage leaves."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from recsys.cli.main import main
from recsys.config import load_settings
from recsys.steps.tracking import open_tracking
from tests.e2e.small_night import DATES, Nights, read_as_users_do, read_state
from tests.rounds import ROUNDS

# Whole nights in processes of their own: minutes on a busy machine, which is no failure.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

STAGES = ("ingest", "build_silver", "build_gold", "train", "evaluate", "score_users", "publish")
# Where a stage shows that it is in the middle of its work. What it leaves there stays, so that a
# look that comes late still finds it: SQLite's journal, say, is gone after a moment.
TRACES = {
    "ingest": "bronze/events/**/*.parquet",
    "build_silver": "silver/*/*",
    "build_gold": "gold/*/*",
    "train": "_checkpoints/*/*",
    "evaluate": "_mlflow/mlflow.db",
    "score_users": "gold/top_n/**/*.parquet",
    "publish": "ops/published/*",
}


def kill_in(nights: Nights, stage: str) -> None:
    """SIGKILL the process of the last night in ``stage``, once the stage has left a trace."""
    process = nights.start(DATES[-1])
    before = STAGES[STAGES.index(stage) - 1] if stage != "ingest" else "night of"
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith(before):
            break
    known = traces(nights.lake, stage)
    while process.poll() is None and traces(nights.lake, stage) == known:
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stdout.close()


def traces(lake: Path, stage: str) -> set[tuple[Path, int]]:
    found = set()
    for path in lake.glob(TRACES[stage]):
        try:
            found.add((path, path.stat().st_mtime_ns))
        except FileNotFoundError:
            found.add((path, 0))
    return found


def test_every_user_has_a_full_list(spark: Any, two_nights: Nights) -> None:
    state = read_state(spark, two_nights.lake)
    users = {json.loads(row)["user_id"] for row in state["silver/users"]}
    lists = [json.loads(row) for row in state["live lists"]]
    assert {row["user_id"] for row in lists} == users
    assert len(lists) == len(users) > 0
    assert {row["run_date"] for row in lists} == {str(DATES[-1])}
    assert {len(row["recommendations"]) for row in lists} == {10}


def test_the_gate_compares_lists_and_models_with_what_was_before(
    spark: Any, two_nights: Nights
) -> None:
    found = {
        (row["run_date"], row["check"])
        for row in map(json.loads, read_state(spark, two_nights.lake)["ops/checks"])
    }
    first, last = map(str, DATES)
    assert (last, "overlap with the published lists") in found
    assert (first, "overlap with the published lists") not in found
    assert {day for day, check in found if check == "ndcg_at_10 beside popularity"} == {first, last}
    assert (last, "ndcg_at_10 beside anchor") in found
    pages = two_nights.lake.glob("_mlflow/mlflow-artifacts/*/artifacts/lists/*.html")
    assert sorted(page.stem for page in pages) == [first, last]


@pytest.mark.long
def test_running_again_changes_nothing(spark: Any, two_nights: Nights) -> None:
    before = read_state(spark, two_nights.lake)
    output = two_nights.run(DATES[-1], "--nights", str(len(DATES)))
    assert output.count("done before, nothing to do") == len(STAGES) * len(DATES)
    assert read_state(spark, two_nights.lake) == before


@pytest.mark.long
def test_forcing_the_last_night_gives_the_same_lists(spark: Any, two_nights: Nights) -> None:
    before = read_state(spark, two_nights.lake)
    output = two_nights.run(DATES[-1], "--force")
    assert "done before" not in output
    after = read_state(spark, two_nights.lake)
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.long
def test_a_rollback_brings_back_lists_and_model(
    spark: Any, two_nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_state(spark, two_nights.lake)
    models = {
        row["run_date"]: row["model_version"] for row in map(json.loads, before["ops/published"])
    }
    settings = load_settings(None, [f"lake.root={two_nights.lake}"])

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--lake", str(two_nights.lake)])
        said = capsys.readouterr()
        assert not caught.value.code, said.err
        return said.out

    output = call("rollback")
    assert re.search(rf"live: [\d,]+ lists of {DATES[0]} by model version", output)
    assert read_as_users_do(spark, two_nights.lake) == DATES[0]
    champion = open_tracking(settings).champion()
    assert champion is not None
    assert champion.version == models[str(DATES[0])]
    assert f"the lists of {DATES[0]} are live already" in call("rollback", "--to", str(DATES[0]))
    # The night is done; what was taken back is published again only where somebody says so.
    assert "done before" in two_nights.run(DATES[-1])
    assert read_as_users_do(spark, two_nights.lake) == DATES[0]
    two_nights.run(DATES[-1], "--force", step="publish")
    open_tracking(settings).promote(models[str(DATES[-1])])
    assert read_state(spark, two_nights.lake) == before


@pytest.mark.long
def test_killed_in_every_stage_ends_in_the_same_state(spark: Any, two_nights: Nights) -> None:
    wanted = read_state(spark, two_nights.lake)
    two_nights.go_back_to_the_copy()
    for stage in STAGES:
        kill_in(two_nights, stage)
        live = read_as_users_do(spark, two_nights.lake)
        assert live == DATES[0] or stage == "publish"
    two_nights.run(DATES[-1])
    found = read_state(spark, two_nights.lake)
    assert {name for name in wanted if wanted[name] != found[name]} == set()


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_killed_at_random_moments_ends_in_the_same_state(spark: Any, two_nights: Nights) -> None:
    """``RECSYS_ROUNDS`` (30) rounds of five kills; readers see whole nights all the time."""
    wanted, dice, kills, reads = read_state(spark, two_nights.lake), random.Random(5), 0, 0
    for number in range(ROUNDS):
        two_nights.go_back_to_the_copy()
        for _ in range(5):
            process, moment = two_nights.start(DATES[-1]), time.monotonic() + dice.uniform(5, 60)
            while process.poll() is None and time.monotonic() < moment:
                assert read_as_users_do(spark, two_nights.lake) in DATES
                reads += 1
                time.sleep(0.3)
            kills += process.poll() is None
            process.kill()
            process.communicate()
        two_nights.run(DATES[-1])
        found = read_state(spark, two_nights.lake)
        assert {name for name in wanted if wanted[name] != found[name]} == set(), number
        print(f"round {number}: {kills} kills and {reads} reads so far", flush=True)
