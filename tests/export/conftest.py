"""What tests of exports begin with: a lake, servers, targets and the command."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys.cli.main import main
from recsys.lake.tables import Lake
from tests.cluster.clusters import running_services
from tests.export.consumers import PASSWORD, STORES, Consumers, make_lake


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Of each file its own; none of its nights is published."""
    return make_lake(spark, tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def servers() -> Iterator[Consumers]:
    """Redis and PostgreSQL, and a folder."""
    with tempfile.TemporaryDirectory(prefix="recsys-stores-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # for the user of PostgreSQL
        with running_services(folder / "services", *STORES) as addresses:
            password = (folder / "services/password").read_text()
            yield Consumers(folder, addresses, password)


@pytest.fixture
def consumers(servers: Consumers, monkeypatch: pytest.MonkeyPatch) -> Consumers:
    """Targets of the test's own, and the servers' password in the environment."""
    monkeypatch.setenv(PASSWORD, servers.password)
    folder = Path(tempfile.mkdtemp(prefix="top_n_", dir=servers.folder))
    return replace(servers, folder=folder)


@pytest.fixture
def export(lake: Lake, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command `recsys export` in this process; returns what it said."""

    def run(conf: Path, *arguments: str, code: int = 0, command: str = "export") -> str:
        with pytest.raises(SystemExit) as ended:
            main([command, "--conf", str(conf), "--lake", lake.settings.lake.root, *arguments])
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, said.out + said.err
        assert "Traceback" not in said.err
        return said.out + said.err

    return run
