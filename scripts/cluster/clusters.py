"""What a night on a cluster uses: Spark, an S3 server, HDFS and MLflow."""

from __future__ import annotations

import os
import sys
import urllib.request
from pathlib import Path

import pyspark
from addresses import HOST, free_port, get, wait
from running import Finish, Services

ROOT = Path(__file__).resolve().parents[2]
EXTRA = ROOT / ".venv-cluster"
WORKERS = 2
BUCKET = "lake"


def start_spark(services: Services) -> Finish:
    """A standalone master and two workers of one core each."""
    port, web = free_port(), free_port()
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
        wait(lambda: get(f"{page}/json/").count('"ALIVE"') > WORKERS, log)
        return {"spark": f"spark://{HOST}:{port}", "spark-web": page}

    return finish


def start_s3(services: Services) -> Finish:
    """moto's server, with an empty bucket."""
    port = free_port()
    address = f"http://{HOST}:{port}"
    command = [str(EXTRA / "bin/moto_server"), "-H", HOST, "-p", str(port)]
    log = services.run("s3", command)

    def finish() -> dict[str, str]:
        wait(lambda: bool(get(f"{address}/moto-api/data.json")), log)
        with urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT")):
            return {"s3": address}

    return finish


def start_hdfs(services: Services) -> Finish:
    """A name node and a data node in one JVM, with an empty file system."""
    port, data = free_port(), services.folder / "hdfs"
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
        wait(details.exists, log)
        return {"hdfs": f"hdfs://{HOST}:{port}"}

    return finish


def start_mlflow(services: Services) -> Finish:
    """MLflow's server, keeping runs in SQLite and handing artifacts through."""
    port = free_port()
    address = f"http://{HOST}:{port}"
    store = f"sqlite:///{services.folder}/mlflow.db"
    artifacts = ["--artifacts-destination", str(services.folder / "mlflow-artifacts")]
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", HOST]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", store, *artifacts]
    # Its jobs (evaluations of language models) would be four more processes.
    log = services.run("mlflow", command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})

    def finish() -> dict[str, str]:
        wait(lambda: get(f"{address}/health") == "OK", log)
        return {"mlflow": address}

    return finish


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return f"{home}/bin/java" if home else "java"
