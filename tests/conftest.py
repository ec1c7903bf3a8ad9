"""Shared fixtures: one Spark session for all tests, small lakes, a real log where it lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

REPOSITORY = Path(__file__).resolve().parent.parent
ML_100K = REPOSITORY.parent / "shared/data/ml-100k"

# In every JVM only the first compiler (tests end before the second one pays), with room for it.
os.environ["SPARK_SUBMIT_OPTS"] = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=400m"
# Every test, and every process it starts, gets a key of its own instead of the user's.
os.environ["RECSYS_PSEUDONYM_KEY"] = "a key for tests, sixteen bytes or more"

# A busy machine draws slowly; that says nothing about what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """A local session with Delta, two cores, four shuffle partitions, UTC."""
    from recsys.config import load_settings
    from recsys.lake.session import build_session

    session = build_session(load_settings(None, ["lake.root=unused"]), "tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def two_nights(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A lake after two small nights, with a copy of what the first one left."""
    from tests.e2e.small_night import DATES, Nights

    nights = Nights(tmp_path_factory.mktemp("two_nights"), spark)
    nights.run(DATES[0])
    nights.keep_a_copy()
    nights.run(DATES[1])
    return nights


USERS_OF_TWO_NIGHTS = ("tests/e2e/test_night.py", "tests/notebooks/test_notebooks.py")


class OneProcessAFile(LoadFileScheduling):
    """Of several test processes one runs a whole file; all that use the two nights are as one."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        return USERS_OF_TWO_NIGHTS[0] if scope in USERS_OF_TWO_NIGHTS else scope


ON_DEMAND = ("long", "stress", "cluster")
"""Markers of tests that run only where ``-m`` names one of these."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is on demand goes; the longest first, so that no process is idle at the end."""
    if not any(marker in config.option.markexpr for marker in ON_DEMAND):
        left = {item for item in items if any(map(item.get_closest_marker, ON_DEMAND))}
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in USERS_OF_TWO_NIGHTS)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneProcessAFile:
    return OneProcessAFile(config, log)


@pytest.fixture
def make_lake(spark: Any, tmp_path: Path) -> Callable[..., Any]:
    """Open a lake under the test's folder; arguments are ``section.key=value`` overrides."""
    from recsys.config import load_settings
    from recsys.lake.tables import Lake

    def make(*overrides: str) -> Any:
        return Lake(spark, load_settings(None, [f"lake.root={tmp_path}/lake", *overrides]))

    return make


@pytest.fixture(scope="session")
def ml_100k() -> Path:
    """The MovieLens 100K log; its tests are skipped, and say so, where it is not there."""
    if not (ML_100K / "u.data").exists():
        pytest.skip(f"MovieLens 100K is not at {ML_100K}")
    return ML_100K
