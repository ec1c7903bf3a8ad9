"""What a step is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Settings
from recsys.errors import LakeError
from recsys.lake.formats import LogFormat
from recsys.lake.operations import SUCCEEDED, StageRun, caught_up_by, read_night
from recsys.lake.quality import CheckResult, History, read_history
from recsys.lake.tables import Lake
from recsys.schemas import Table
from recsys.steps import SUMMARIES


@dataclass
class Context:
    """One night: settings, date, lake, and what its earlier stages have recorded."""

    settings: Settings
    log: LogFormat
    run_date: date
    lake: Lake
    force: bool = False
    say: Callable[[str], None] = print
    runs: dict[str, StageRun] = field(default_factory=dict)
    days_after: date | None = None

    @property
    def spark(self) -> SparkSession:
        return self.lake.spark

    @cached_property
    def history(self) -> History:
        """The quality checks of the nights before."""
        return read_history(self.lake, self.run_date)

    def refresh(self) -> None:
        """Read what the night's stages have recorded so far, and which day its logs follow."""
        night = read_night(self.lake, self.run_date)
        self.runs, self.days_after = night.runs, night.days_after

    @property
    def caught_up_by(self) -> str:
        """The later night that has read all events of this one, which ends with build_gold."""
        return caught_up_by(self.runs)

    def done(self, stage: str) -> StageRun:
        """The recorded success of an earlier stage.

        Raises:
            LakeError: the stage has not run for this date.
        """
        run = self.runs.get(stage)
        if run is None or run.status != SUCCEEDED:
            raise LakeError(
                f"{stage} has not succeeded for {self.run_date}",
                where=self.settings.lake.root,
                do=f"run it first: recsys {stage.replace('_', '-')} --date {self.run_date}",
            )
        return run

    def written(self, stage: str, table: Table) -> int:
        """The version of a table that an earlier stage of this night has written.

        Raises:
            LakeError: the stage has not run, its version was removed when users were erased, or a
                later night has read all events of this one.
        """
        versions = self.done(stage).tables_written
        if table.name in versions:
            return versions[table.name]
        later = self.caught_up_by
        if later:
            what = f"the night of {later} has read all events up to {self.run_date}"
            do = f"nothing is lost; look at that night: --date {later}"
        else:
            what = f"what {stage} of {self.run_date} wrote to {table.name} is gone"
            do = f"run {stage} for {self.run_date} again, with --force"
        raise LakeError(what, where=self.settings.lake.root, do=do)

    def attributes_version(self) -> int:
        """The version of silver/user_attributes that the night has read or left; -1: none."""
        versions = self.done("build_silver").tables_written
        return versions.get(schemas.SILVER_USER_ATTRIBUTES.name, -1)

    def highest(self, table: Table, index: str) -> int:
        """The largest dense index in what this night's silver wrote to a table of ids; 0: none."""
        version = self.written("build_silver", table)
        rows = self.lake.read(table, version).agg(F.coalesce(F.max(index), F.lit(0))).collect()
        return int(rows[0][0])


@dataclass(frozen=True)
class Outcome:
    """What a step did: rows, table versions, figures to keep, and a line for the terminal.

    Attributes:
        results: what the step itself has checked; they join the checks of the tables it wrote.
    """

    headline: str
    rows_in: int = 0
    rows_out: int = 0
    details: Mapping[str, str] = field(default_factory=dict)
    tables_read: Mapping[str, int] = field(default_factory=dict)
    tables_written: Mapping[str, int] = field(default_factory=dict)
    results: Sequence[CheckResult] = ()


@dataclass(frozen=True)
class Step:
    """A stage of the night.

    Attributes:
        name: as in ops/runs and ``jobs/``.
        sections: settings that its result depends on.
        after: the stage whose result it builds on.
        run: does the work.
        inputs: anything else that its result depends on, as text.
        repeats: it finds out by itself what is done, so it runs whatever ops/runs says.
        wanted: whether the settings ask for it; a night leaves it out otherwise.
        python_daemon: see ``build_session``.
    """

    name: str
    sections: tuple[str, ...]
    after: str | None
    run: Callable[[Context], Outcome]
    inputs: Callable[[Context], str] = lambda _: ""
    repeats: bool = False
    wanted: Callable[[Settings], bool] = lambda _: True
    python_daemon: str | None = None

    @property
    def summary(self) -> str:
        return SUMMARIES[self.name]
