"""Scores a small lake on a cluster whose executors are killed: MASTER FOLDER; prints JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
from pyspark import SparkContext

from recsys import schemas
from recsys.config import load_settings
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.score.checks import check_lists
from recsys.score.job import score_users
from tests.ranked_users import N
from tests.spark.scored_lists import NIGHT, Scored, score_once

TASKS = 60
_ENOUGH = 10


def executors(context: SparkContext) -> list[psutil.Process]:
    """Processes of this application's executors, which all run on this machine."""
    name, found = "CoarseGrainedExecutorBackend", []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if context.applicationId in words and any(word.endswith(name) for word in words):
            found.append(process)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def replace_one(context: SparkContext) -> None:
    """Kill an executor, and wait until the cluster has given another one."""
    before = {process.pid for process in executors(context)}
    tracker = context._jsc.sc().statusTracker()
    psutil.Process(min(before)).kill()
    wait_for(lambda: len({process.pid for process in executors(context)} - before) == 1)
    wait_for(lambda: len(tracker.getExecutorInfos()) == 1 + len(before))  # the driver counts


def done_tasks(context: SparkContext) -> int:
    """Of the stage that ranks."""
    tracker = context.statusTracker()
    stages = [tracker.getStageInfo(number) for number in tracker.getActiveStageIds()]
    return max((s.numCompletedTasks for s in stages if s and s.numTasks == TASKS), default=0)


def score(scored: Scored, day: int) -> dict[str, list[str]]:
    settings = [f"lake.root={scored.lake.settings.lake.root}", f"score.n={N}"]
    lake = Lake(scored.lake.spark, load_settings(None, [*settings, f"score.partitions={TASKS}"]))
    night = NIGHT + timedelta(days=day)
    commit = score_users(lake, scored.bundle, "7", scored.versions, night).commit
    check_lists(lake, commit.version, scored.versions, night)
    rows = lake.read(schemas.GOLD_TOP_N, commit.version).where(f"run_date = '{night}'").collect()
    return {row["user_id"]: [e["item_id"] for e in row["recommendations"]] for row in rows}


def main(master: str, folder: Path) -> None:
    settings = load_settings(None, [f"lake.root={folder}", f"spark.master={master}"])
    context = (spark := build_session(settings, "lost executors")).sparkContext
    scored = score_once(spark, folder)
    wanted = {u: [entry["item_id"] for entry in own] for u, own in scored.lists.items()}
    replace_one(context)
    after_a_new_one = score(scored, 1)

    killed_after: list[int] = []

    def kill_in_the_middle() -> None:
        wait_for(lambda: done_tasks(context) >= _ENOUGH)
        killed_after.append(done_tasks(context))
        executors(context)[0].kill()

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    while_one_was_killed = score(scored, 2)
    killer.join()
    print(
        json.dumps(
            {
                "joined": after_a_new_one == wanted,
                "killed": while_one_was_killed == wanted,
                "killed_after": killed_after,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
