"""Two processes on one lake, and processes that are killed: the end is that of quiet nights."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import pytest

from recsys.lake.tables import Lake
from tests.e2e.small_night import forget_tables
from tests.rounds import ROUNDS
from tests.spark.etl_nights import DAYS, SMALL, Etl, content
from tests.spark.test_incremental import some_records, to_logs

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def start(root: Path, logs: Path, dates: Sequence[date]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.spark.etl_nights", str(root), str(logs)]
    return subprocess.Popen(
        [*command, *map(str, dates)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def look(make_lake: Callable[..., Lake], root: Path) -> dict[str, list[str]]:
    lake = make_lake(f"lake.root={root}", *SMALL)
    forget_tables(lake.spark)
    return content(lake)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture
def quiet(make_lake: Callable[..., Lake], logs: Path, tmp_path: Path) -> dict[str, list[str]]:
    etl = Etl(make_lake(f"lake.root={tmp_path}/quiet", *SMALL), logs)
    etl.write(to_logs(some_records()))
    etl.run(DAYS[-1])  # all days in one night
    return content(etl.lake)


def race(make_lake: Callable[..., Lake], logs: Path, root: Path, runs: Sequence[Sequence[date]]):  # type: ignore[no-untyped-def]
    processes = [start(root, logs, dates) for dates in runs]
    outputs = [finish(process) for process in processes]
    # Nights that overtook each other leave the newest one's gold to be brought up to date.
    again = finish(start(root, logs, DAYS[-1:]))
    return look(make_lake, root), outputs, again


def test_two_runs_of_the_same_nights_at_once_end_as_one(
    make_lake: Callable[..., Lake], logs: Path, tmp_path: Path, quiet: dict[str, list[str]]
) -> None:
    nights = [DAYS[1], DAYS[3]]  # two days each
    found, _, again = race(make_lake, logs, tmp_path / "same", [nights, nights])
    assert {name for name in quiet if quiet[name] != found[name]} == set()
    assert again.count("done before, nothing to do") == 3


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_runs_at_once_in_many_rounds(
    make_lake: Callable[..., Lake], logs: Path, tmp_path: Path, quiet: dict[str, list[str]]
) -> None:
    """``RECSYS_ROUNDS`` (30) rounds: the same dates, and dates of their own, side by side."""
    for number in range(ROUNDS):
        runs = [DAYS, DAYS] if number % 2 else [DAYS[::2], DAYS[1::2]]
        found, outputs, _ = race(make_lake, logs, tmp_path / str(number), runs)
        wrong = {name for name in quiet if quiet[name] != found[name]}
        assert wrong == set(), (number, outputs)
        print(f"round {number}: {sum(o.count(': again') for o in outputs)} races lost", flush=True)


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_killed_at_random_moments_ends_as_quiet_nights(
    make_lake: Callable[..., Lake], logs: Path, tmp_path: Path, quiet: dict[str, list[str]]
) -> None:
    """``RECSYS_ROUNDS`` (30) rounds: SIGKILL at random, again and again, then to the end."""
    dice = random.Random(4)
    kills = 0
    for number in range(ROUNDS):
        root = tmp_path / str(number)
        for _ in range(4):
            process = start(root, logs, DAYS)
            time.sleep(dice.uniform(4, 40))
            kills += process.poll() is None
            process.kill()
            process.communicate()
        finish(start(root, logs, DAYS))
        found = look(make_lake, root)
        assert {name for name in quiet if quiet[name] != found[name]} == set(), number
        print(f"round {number}: {kills} kills so far", flush=True)
