"""What Spark itself has counted of the work of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MOST_TASKS = 100_000


@dataclass(frozen=True)
class Totals:
    """Of all tasks so far: records read from files and written to them, bytes of all kinds."""

    records_read: int
    bytes_read: int
    shuffled_bytes: int
    records_written: int
    bytes_written: int
    spilled_bytes: int

    def since(self, before: Totals) -> dict[str, int]:
        """The difference, by name."""
        return {name: value - getattr(before, name) for name, value in vars(self).items()}


def read_totals(spark: Any) -> Totals:
    """The totals of the session so far; it keeps the newest 1,000 stages, or more if told to."""
    stages = _stages(spark)
    return Totals(
        sum(stage.inputRecords() for stage in stages),
        sum(stage.inputBytes() for stage in stages),
        sum(stage.shuffleWriteBytes() for stage in stages),
        sum(stage.outputRecords() for stage in stages),
        sum(stage.outputBytes() for stage in stages),
        sum(stage.diskBytesSpilled() for stage in stages),
    )


def stage_numbers(spark: Any) -> set[int]:
    """The stages that have run so far."""
    return {stage.stageId() for stage in _stages(spark)}


def task_seconds(spark: Any, known: set[int]) -> dict[str, list[float]]:
    """Of each stage that is not ``known`` and has run: name to the seconds of its tasks."""
    store = _store(spark)
    found = {}
    for stage in _stages(spark):
        if stage.stageId() in known or stage.numCompleteTasks() == 0:
            continue
        tasks = store.taskList(stage.stageId(), stage.attemptId(), _MOST_TASKS)
        seconds = [
            tasks.apply(at).duration().get() / 1000
            for at in range(tasks.size())
            if tasks.apply(at).duration().isDefined()
        ]
        found[f"stage {stage.stageId()}, {stage.name()}"] = sorted(seconds)
    return found


def _store(spark: Any) -> Any:
    return spark.sparkContext._jsc.sc().statusStore()


def _stages(spark: Any) -> list[Any]:
    context = spark.sparkContext
    quantiles = context._gateway.new_array(context._jvm.double, 0)
    stages = _store(spark).stageList(None, False, False, quantiles, None)
    return [stages.apply(at) for at in range(stages.size())]
