"""A night submitted step by step to a cluster of real services on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.e2e.small_night import DATES, SETTINGS

STEPS = ("ingest", "build_silver", "build_gold", "train", "evaluate", "score_users", "publish")
EXTRA = REPOSITORY / ".venv-cluster"
SERVICES = REPOSITORY / "scripts/cluster/services.py"
KEY, SECRET = "an-access-key", "a-secret-that-nothing-may-show"
# Of jars of the mini cluster Spark needs none: it has Hadoop's client itself.
_ONLY_HDFS = ("hadoop-client-minicluster", "junit", "hamcrest")


@contextmanager
def running_services(folder: Path, *names: str) -> Iterator[dict[str, str]]:
    """Start services, give their addresses, end them."""
    assert EXTRA.exists() or not {"s3", "hdfs"} & set(names), "run `make cluster-setup` first"
    command = [sys.executable, str(SERVICES)]
    subprocess.run([*command, "start", str(folder), *names], check=True)
    try:
        yield json.loads((folder / "services.json").read_text())["addresses"]
    finally:
        subprocess.run([*command, "stop", str(folder)], check=True)


def overrides() -> list[str]:
    """The small night's settings but those of one machine, and none of the log's making."""
    sections = {name: section for name, section in SETTINGS.items() if name != "generate"}
    sections["spark"] = {"shuffle_partitions": SETTINGS["spark"]["shuffle_partitions"]}
    return [
        f"{section}.{key}={json.dumps(value)}"
        for section, values in sections.items()
        for key, value in values.items()
    ]


@dataclass(frozen=True)
class Submitter:
    """``spark-submit`` to the standalone master, with ``conf/cluster.yaml``.

    Attributes:
        master: of Spark.
        log: folder of the raw logs.
        tracking: MLflow's server.
        more: further overrides; where the lake lies and what that needs.
    """

    master: str
    log: Path
    tracking: str
    more: tuple[str, ...] = field(default=())

    def run_night(self, lake: str, name: str) -> str:
        """All jobs for the last date; returns what they printed."""
        return "".join(self.run_step(step, lake, name) for step in STEPS)

    def run_step(self, step: str, lake: str, name: str) -> str:
        options = ["--conf", "conf/cluster.yaml", "--date", str(DATES[-1]), "--lake", lake]
        options += ["--input", str(self.log), *overrides(), "train.ranks=2"]
        # Each lake has models of its own, as the gate compares with those that are there.
        options += [f"tracking.uri={self.tracking}", f"tracking.model_name={name}"]
        return self.submit(f"jobs/{step}.py", *options, f"tracking.experiment={name}", *self.more)

    def submit(self, file: str, *arguments: str) -> str:
        """Submit a Python file; returns what it printed.

        Raises:
            AssertionError: it failed.
        """
        log4j = (REPOSITORY / "conf/log4j2.properties").as_uri()
        archive = Path(sys.prefix) / "share/recsys/classes.jsa"
        quick = f"-XX:TieredStopAtLevel=1 -XX:SharedArchiveFile={archive} -Xlog:cds*=off"
        jars = [
            str(jar)
            for jar in sorted((EXTRA / "share/jars").glob("*.jar"))
            if not jar.name.startswith(_ONLY_HDFS)
        ]
        command = [
            str(Path(sys.executable).with_name("spark-submit")), "--master", self.master,
            "--driver-memory", "1g", "--executor-memory", "1g", "--jars", ",".join(jars),
            "--driver-java-options", f"-Dlog4j2.configurationFile={log4j}",
            "--conf", f"spark.executor.extraJavaOptions={quick}",
        ]  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        done = subprocess.run(
            [*command, file, *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout
