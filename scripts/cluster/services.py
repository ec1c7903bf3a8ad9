"""A cluster to try and to test on: services.py start FOLDER [spark s3 hdfs mlflow] | stop FOLDER

Real services, reachable on the loopback interface only: a Spark standalone master with two workers,
an S3-compatible server (moto), HDFS with one data node (Hadoop's mini cluster), MLflow's server.
``FOLDER/services.json`` says where they are; what they log lies beside it. `make cluster-setup`
fetches what they need. ``stop`` ends the processes that ``start`` made, by their ids, and no other.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pyspark

ROOT = Path(__file__).resolve().parents[2]
EXTRA = ROOT / ".venv-cluster"
HOST = "127.0.0.1"
STATE = "services.json"
WORKERS = 2
BUCKET = "lake"
Finish = Callable[[], dict[str, str]]
"""Waits until a started service answers; returns its addresses by name."""
_START_SECONDS = 180
_STOP_SECONDS = 20


class Services:
    """The services of one folder: what runs, where, and how it is ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.addresses: dict[str, str] = {}
        self.processes: list[dict[str, int]] = []

    def start(self, names: list[str]) -> None:
        """Start the named services and wait until each answers; all are ended if one does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for finish in [STARTERS[name](self) for name in names]:
                self.addresses |= finish()
        except BaseException:
            self.stop()
            raise
        self._save()

    def stop(self) -> None:
        """End what runs, the last started first, politely and then by force."""
        for process in reversed(self.processes):
            _end(process)
        (self.folder / STATE).unlink(missing_ok=True)

    def run(self, name: str, command: list[str], variables: dict[str, str] | None = None) -> Path:
        """Start a process in a session of its own; returns its log."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append({"pid": process.pid, "born": _born(process.pid)})
        self._save()
        return log

    def _save(self) -> None:
        state = {"addresses": self.addresses, "processes": self.processes}
        (self.folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Services:
        services = cls(folder)
        if (folder / STATE).exists():
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            services.addresses, services.processes = state["addresses"], state["processes"]
        return services


def start_spark(services: Services) -> Finish:
    """A standalone master and two workers of one core each."""
    port, web = _free_port(), _free_port()
    spark_class = str(Path(sys.executable).with_name("spark-class"))
    # Workers give their environment to executors: there `recsys` is this clone.
    variables = {
        "SPARK_LOCAL_IP": HOST,
        "SPARK_DAEMON_MEMORY": "256m",
        "PYTHONPATH": str(ROOT),
    }
    here = ["--host", HOST]
    master = "org.apache.spark.deploy.master.Master"
    command = [spark_class, master, *here, "--port", str(port), "--webui-port", str(web)]
    log = services.run("spark-master", command, variables)
    for number in range(1, WORKERS + 1):
        worker = ["org.apache.spark.deploy.worker.Worker", *here, "--webui-port", "0"]
        size = ["--cores", "1", "--memory", "2g"]
        work = ["--work-dir", str(services.folder / f"work-{number}")]
        command = [spark_class, *worker, *size, *work, f"spark://{HOST}:{port}"]
        services.run(f"spark-worker-{number}", command, variables)

    def finish() -> dict[str, str]:
        page = f"http://{HOST}:{web}"
        _wait(lambda: _get(f"{page}/json/").count('"ALIVE"') > WORKERS, log)
        return {"spark": f"spark://{HOST}:{port}", "spark-web": page}

    return finish


def start_s3(services: Services) -> Finish:
    """moto's server, with an empty bucket."""
    port = _free_port()
    address = f"http://{HOST}:{port}"
    command = [str(EXTRA / "bin/moto_server"), "-H", HOST, "-p", str(port)]
    log = services.run("s3", command)

    def finish() -> dict[str, str]:
        _wait(lambda: bool(_get(f"{address}/moto-api/data.json")), log)
        with urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT")):
            return {"s3": address}

    return finish


def start_hdfs(services: Services) -> Finish:
    """A name node and a data node in one JVM, with an empty file system."""
    port, data = _free_port(), services.folder / "hdfs"
    jars = [
        *(EXTRA / "share/jars").glob("hadoop-client-minicluster-*.jar"),
        *(EXTRA / "share/jars").glob("junit-*.jar"),
        *(EXTRA / "share/jars").glob("hamcrest-core-*.jar"),
        Path(pyspark.__path__[0]) / "jars/*",
    ]
    details = services.folder / "hdfs.json"
    details.unlink(missing_ok=True)
    command = [
        _java(), "-Xmx512m", f"-Dtest.build.data={data}", "-cp", os.pathsep.join(map(str, jars)),
        "org.apache.hadoop.test.MiniDFSClusterManager", "-datanodes", "1", "-format",
        "-nnport", str(port), "-writeDetails", str(details),
    ]  # fmt: skip
    log = services.run("hdfs", command)

    def finish() -> dict[str, str]:
        _wait(details.exists, log)
        return {"hdfs": f"hdfs://{HOST}:{port}"}

    return finish


def start_mlflow(services: Services) -> Finish:
    """MLflow's server, keeping runs in SQLite and handing artifacts through."""
    port = _free_port()
    address = f"http://{HOST}:{port}"
    store = f"sqlite:///{services.folder}/mlflow.db"
    artifacts = ["--artifacts-destination", str(services.folder / "mlflow-artifacts")]
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", HOST]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", store, *artifacts]
    # Its jobs (evaluations of language models) would be four more processes.
    log = services.run("mlflow", command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})

    def finish() -> dict[str, str]:
        _wait(lambda: _get(f"{address}/health") == "OK", log)
        return {"mlflow": address}

    return finish


STARTERS: dict[str, Callable[[Services], Finish]] = {
    "spark": start_spark,
    "s3": start_s3,
    "hdfs": start_hdfs,
    "mlflow": start_mlflow,
}


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return f"{home}/bin/java" if home else "java"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def _wait(ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    sys.exit(f"{log.stem} does not answer after {_START_SECONDS} s; {log} ends with\n{tail}")


def _born(pid: int) -> int:
    """When the process began, in the kernel's ticks: its id may be another's later. 0: it ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _end(process: dict[str, int]) -> None:
    pid, born = process["pid"], process["born"]
    deadline = time.monotonic() + _STOP_SECONDS
    number = signal.SIGTERM
    while _runs(pid, born):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        time.sleep(0.2)
        if time.monotonic() > deadline:
            number = signal.SIGKILL


def _runs(pid: int, born: int) -> bool:
    try:  # where it is our own child, it stays a zombie until we ask
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass
    return born != 0 and _born(pid) == born


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("names", nargs="*", help=f"of {', '.join(STARTERS)} (default: all)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(STARTERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(STARTERS)}")
    if options.action == "stop":
        Services.load(options.folder).stop()
        return
    services = Services(options.folder)
    services.start(options.names or list(STARTERS))
    for name, address in services.addresses.items():
        print(f"{name:<9} {address}")


if __name__ == "__main__":
    main()
