"""How far Spark has come with the lists, and when it will be done: lines for the log."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark import SparkContext

_LOOK_EVERY = 2.0
_FIRST_AFTER, _LATEST_AFTER = 20.0, 300.0
"""Seconds until the first line; each later one waits half as long again, this at most."""
_GROUP = "spark.jobGroup.id"


@contextmanager
def progress(context: SparkContext, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """While the block's Spark jobs run, say now and then how many tasks are done, and an ETA.

    Of a short job nothing is said.

    Args:
        context: that runs the jobs, started by this thread.
        what: is being done, e.g. "scoring".
        say: gets the lines; called by another thread.
    """
    group, before = f"recsys-{uuid.uuid4().hex}", context.getLocalProperty(_GROUP)
    context.setLocalProperty(_GROUP, group)
    ended = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(context, group, what, say, ended), name="progress", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        context.setLocalProperty(_GROUP, before)  # type: ignore[arg-type]  # None takes it away


def _watch(
    context: SparkContext, group: str, what: str, say: Callable[[str], None], ended: threading.Event
) -> None:
    tracker = context.statusTracker()
    pause, stage, began = _FIRST_AFTER, -1, time.monotonic()
    said = began
    while not ended.wait(_LOOK_EVERY):
        jobs = [tracker.getJobInfo(number) for number in tracker.getJobIdsForGroup(group)]
        stages = [number for job in jobs if job is not None for number in job.stageIds]
        running = [info for number in stages if (info := tracker.getStageInfo(number)) is not None
                   and info.numActiveTasks > 0]  # fmt: skip
        if not running:
            continue
        now, main = time.monotonic(), max(running, key=lambda info: info.numTasks)
        if main.stageId != stage:
            stage, began = main.stageId, now
        if now - said >= pause:
            say(describe(what, main.numCompletedTasks, main.numTasks, now - began))
            said, pause = now, min(1.5 * pause, _LATEST_AFTER)


def describe(what: str, done: int, tasks: int, seconds: float) -> str:
    """A line: tasks done and, from their mean pace, the time left.

    Args:
        seconds: since the first of the tasks began.
    """
    line = f"  {what}: {done:,} of {tasks:,} tasks done"
    if not done:
        return line
    left = seconds / done * (tasks - done)
    minutes = f"{left / 60:,.0f} min" if left >= 90 else f"{left:.0f} s"
    return f"{line}, about {minutes} left"
