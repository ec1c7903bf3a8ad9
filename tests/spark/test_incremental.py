"""Nights in any order end in the lake that nights in order end in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.cli.summary import print_summary
from recsys.lake.operations import SUCCEEDED, read_night
from recsys.lake.tables import Lake
from recsys.steps import ETL
from recsys.steps.context import Step
from recsys.steps.etl import BUILD_GOLD, INGEST
from recsys.steps.night import ALL_STEPS
from tests.rounds import ROUNDS
from tests.spark.etl_nights import DAYS, SMALL, Etl, content
from tests.spark.tiny_logs import event

pytestmark = [pytest.mark.spark, pytest.mark.long]

Order = list[tuple[int, bool]]


def moment_of(day: date, hour: int, second: int) -> str:
    return f"{day}T{hour:02d}:00:{second:02d}Z"


# A record: the day of the log it comes in, how many days late it is (3: too late), what it says.
records = st.tuples(
    st.integers(0, len(DAYS) - 1), st.sampled_from([0, 0, 0, 1, 2, 3]), st.integers(0, 23),
    st.integers(0, 3), st.sampled_from(["ann", "bob", "cid"]), st.sampled_from("abcd"),
    st.sampled_from(["view", "rating"]),
)  # fmt: skip
orders = st.lists(st.tuples(st.integers(0, len(DAYS) - 1), st.booleans()), max_size=3)


def to_logs(drawn: list[Any]) -> dict[date, list[dict[str, Any]]]:
    days: dict[date, list[dict[str, Any]]] = {
        day: [event("eve", "a", moment_of(day, 12, 0))] for day in DAYS
    }
    for log, late, hour, second, user, item, kind in drawn:
        more = {"rating": 1 + second} if kind == "rating" else {}
        ts = moment_of(DAYS[log] - timedelta(days=late), hour, second)
        days[DAYS[log]].append(event(user, item, ts, kind, **more))
    return days


def check_order(
    folder: Path, make: Callable[..., Lake], drawn: list[Any], order: Order, nights: list[date]
) -> None:
    """One lake gets the ``nights`` (the last catches up what is missing), another the ``order``.

    There some are done by force; the last night follows.
    """
    one = Etl(make(f"lake.root={folder}/one", *SMALL), folder / "logs")
    one.write(to_logs(drawn))
    for day in nights:
        one.run(day)
    other = Etl(make(f"lake.root={folder}/two", *SMALL), folder / "logs")
    for place, force in [*order, (len(DAYS) - 1, False)]:
        other.run(DAYS[place], force)
    wanted, found = content(one.lake), content(other.lake)
    assert {name for name in wanted if wanted[name] != found[name]} == set()
    assert wanted["silver/events"]


def some_records() -> list[Any]:
    """Records of all kinds: late by 0 to 3 days, said again in another log, near each other."""
    users, kinds = ("ann", "bob", "cid"), ("view", "rating")
    found = [
        (n % 4, (n // 4) % 4, n % 24, n % 3, users[n % 3], "abcd"[n * 7 % 4], kinds[n % 5 == 0])
        for n in range(60)
    ]
    again = [(log + 1, late + 1, *rest) for log, late, *rest in found[:16] if log < 3 and late < 2]
    return found + again


def test_nights_in_any_order_end_as_one_that_reads_it_all(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    # The second night is missed and caught up by the third, then run after all; the third by force.
    order = [(0, False), (2, False), (1, False), (2, True)]
    check_order(tmp_path, make_lake, some_records(), order, nights=DAYS[-1:])


def test_gold_of_an_old_night_again_takes_nothing_from_the_nights_after(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    """Windows that settled since, and late events of days that the old night may touch, stay."""
    short = [*SMALL, "gold.sequence_length=2", "gold.length_buckets=[2]", "silver.late_days=1"]
    etl = Etl(make_lake(f"lake.root={tmp_path}/one", *short), tmp_path / "logs")
    other = Etl(make_lake(f"lake.root={tmp_path}/two", *short), tmp_path / "logs")
    etl.write(
        {
            day: [event(user, f"i{n % 4}", moment_of(day, n, 0)) for n in range(8) for user in "ab"]
            + [event("a", "late", moment_of(day - timedelta(days=1), 23, 0))]
            for day in DAYS
        }
    )
    etl.run(DAYS[3])
    for day in DAYS[:3]:
        other.run(day)
    other.run(DAYS[1], force=True, steps=(BUILD_GOLD,))
    other.run(DAYS[3])
    wanted, found = content(etl.lake), content(other.lake)
    assert {name for name in wanted if wanted[name] != found[name]} == set()


@pytest.mark.parametrize("begun", [(), (INGEST,)])
def test_a_first_night_whose_events_a_later_one_has_read_ends_with_nothing_to_do(
    make_lake: Callable[..., Lake],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    begun: Sequence[Step],
) -> None:
    """It came later, or both are the lake's first, began at once, and the later one was ahead."""
    etl = Etl(make_lake(f"lake.root={tmp_path}/lake", *SMALL), tmp_path / "logs")
    etl.write(to_logs(some_records()))
    etl.run(DAYS[1], steps=(INGEST,))
    if begun:
        etl.run(DAYS[0], steps=begun)
    etl.run(DAYS[1])
    before = content(etl.lake)
    gold, *after = etl.run(DAYS[0], steps=ALL_STEPS)[-5:]
    assert f"nothing to do: the night of {DAYS[1]} has read all events up to {DAYS[0]}" in gold
    left = ("train", "evaluate", "score_users", "publish")
    assert [line.split(maxsplit=1) for line in after] == [[name, "nothing to do"] for name in left]
    assert content(etl.lake) == before
    recorded = read_night(etl.lake, DAYS[0]).runs
    assert {name: run.status for name, run in recorded.items()} == dict.fromkeys(ETL, SUCCEEDED)
    assert recorded["build_gold"].tables_written == {}
    print_summary(etl.lake, DAYS[:1])
    assert f"The night of {DAYS[1]} has read all events" in capsys.readouterr().out


def test_nights_after_one_with_nothing_to_do_go_on_from_the_one_that_read_its_events(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    etl = Etl(make_lake(f"lake.root={tmp_path}/lake", *SMALL), tmp_path / "logs")
    etl.write(to_logs(some_records()))
    etl.run(DAYS[1])
    before = content(etl.lake)
    etl.run(DAYS[0])
    assert all("done before" in line for line in etl.run(DAYS[0])[-3:])
    assert all("done before" in line for line in etl.run(DAYS[1])[-3:])
    assert "from all events" in etl.run(DAYS[1], force=True)[-1]
    assert content(etl.lake) == before
    assert f"on {DAYS[1]}'s" in etl.run(DAYS[2])[-1]


@pytest.mark.stress
@pytest.mark.timeout(0)
@settings(
    max_examples=ROUNDS, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
@given(drawn=st.lists(records, min_size=30, max_size=80), order=orders)
def test_any_order_of_nights_and_reruns_ends_as_nights_in_order(
    make_lake: Callable[..., Lake],
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[Any],
    order: Order,
) -> None:
    check_order(tmp_path_factory.mktemp("orders"), make_lake, drawn, order, nights=DAYS)
