"""Services to try and to test with: services.py start FOLDER [NAME ...] | stop FOLDER

Real ones, reachable on the loopback interface only: a Spark standalone master with two workers,
an S3-compatible server (moto), HDFS with one data node (Hadoop's mini cluster), MLflow's server;
Redis and PostgreSQL, whose password and certificate, made for this run, are ``FOLDER/password`` and
``FOLDER/server.crt``.
``FOLDER/services.json`` says where they are; what they log lies beside it. `make cluster-setup`
fetches what the first four need, `make stores-setup` the other two. ``stop`` ends the processes
that ``start`` made, by their ids, and no other.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyspark

ROOT = Path(__file__).resolve().parents[2]
EXTRA = ROOT / ".venv-cluster"
HOST = "127.0.0.1"
STATE = "services.json"
PASSWORD = "password"
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

    def run(
        self,
        name: str,
        command: list[str],
        variables: dict[str, str] | None = None,
        user: str | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> Path:
        """Start a process in a session of its own; returns its log.

        Args:
            user: whom it runs as, if not as us.
            end: the signal on which it ends in good order.
        """
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **(variables or {})},
                **as_user(user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append({"pid": process.pid, "born": _born(process.pid), "end": int(end)})
        self._save()
        return log

    def password(self) -> str:
        """The password of this folder's stores."""
        path = self.folder / PASSWORD
        if not path.exists():
            _write_secret(path, secrets.token_hex(16))
        return path.read_text(encoding="utf-8")

    def certificate(self) -> tuple[Path, Path]:
        """A certificate for this host, which signs itself, and its key."""
        certificate, key = self.folder / "server.crt", self.folder / "server.key"
        if not certificate.exists():
            name = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}"]
            make = [_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", *name]
            files = ["-keyout", str(key), "-out", str(certificate)]
            subprocess.run([*make, *files], check=True, stderr=subprocess.DEVNULL)
        return certificate, key

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


def start_redis(services: Services) -> Finish:
    """A Redis that keeps nothing on disk."""
    port, tls_port, settings = _free_port(), _free_port(), services.folder / "redis.conf"
    certificate, key = services.certificate()
    lines = (
        f"bind {HOST}", f"port {port}", 'save ""', f"requirepass {services.password()}",
        f"tls-port {tls_port}", f"tls-cert-file {certificate}", f"tls-key-file {key}",
        "tls-auth-clients no",
    )  # fmt: skip
    _write_secret(settings, "\n".join(lines))
    log = services.run("redis", [_program("redis-server"), str(settings)])

    def finish() -> dict[str, str]:
        _wait(lambda: _greets(port, b"PING\r\n", b"NOAUTH"), log)
        tls = f"rediss://{HOST}:{tls_port}/0"
        return {"redis": f"redis://{HOST}:{port}/0", "redis-tls": tls}

    return finish


def start_postgres(services: Services) -> Finish:
    """A PostgreSQL with one database; it refuses to run as root, so it runs as its own user."""
    port, folder = _free_port(), services.folder / "postgres"
    owner = "postgres" if os.geteuid() == 0 else None
    folder.mkdir()
    secret, key = folder / "superuser", folder / "server.key"
    certificate, own_key = services.certificate()
    _write_secret(secret, services.password())
    _write_secret(key, own_key.read_text())
    for path in (folder, secret, key) if owner else ():
        shutil.chown(path, owner, owner)
    if subprocess.run(["test", "-r", str(secret)], **as_user(owner)).returncode:
        sys.exit(f"the user {owner} can't reach {folder}: choose a folder that all may enter")
    data = str(folder / "data")
    make = [_program("initdb"), "-D", data, "-U", "recsys", "-A", "scram-sha-256", "-N"]
    make += ["-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={secret}"]
    subprocess.run(make, cwd=folder, check=True, stdout=subprocess.DEVNULL, **as_user(owner))
    options = (
        f"listen_addresses={HOST}", f"port={port}", "unix_socket_directories=", "fsync=off",
        "ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}",
    )  # fmt: skip
    settings = [text for option in options for text in ("-c", option)]
    command = [_program("postgres"), "-D", data, *settings]
    # On SIGTERM it would wait for its clients to go.
    log = services.run("postgres", command, user=owner, end=signal.SIGINT)

    def finish() -> dict[str, str]:
        # The first bytes of a client that asks for TLS.
        _wait(lambda: _greets(port, bytes([0, 0, 0, 8, 4, 210, 22, 47]), b"S"), log)
        tls = f"postgresql://{HOST}:{port}/postgres"
        return {"postgres": f"{tls}?sslmode=disable", "postgres-tls": tls}

    return finish


STARTERS: dict[str, Callable[[Services], Finish]] = {
    "spark": start_spark,
    "s3": start_s3,
    "hdfs": start_hdfs,
    "mlflow": start_mlflow,
    "redis": start_redis,
    "postgres": start_postgres,
}


def as_user(name: str | None) -> dict[str, Any]:
    """Arguments of subprocess for a process of another user; none for our own."""
    return {} if name is None else {"user": name, "group": name, "extra_groups": []}


def _program(name: str) -> str:
    """On PATH, or where Debian puts PostgreSQL's."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    folders = [os.environ["PATH"], *(str(path) for path in reversed(debian))]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        sys.exit(f"{name} is not installed; run 'make stores-setup'")
    return found


def _write_secret(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _greets(port: int, question: bytes, answer: bytes) -> bool:
    with socket.create_connection((HOST, port), timeout=5) as link:
        link.sendall(question)
        return answer in link.recv(64)


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
    number = process.get("end", signal.SIGTERM)
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
