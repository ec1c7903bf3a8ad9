"""A lake with two published nights, targets of every kind, and readers that know no Spark."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from socket import SHUT_RDWR, create_connection, create_server, socket
from typing import Any
from urllib.parse import urlsplit

import pyarrow
import pyarrow.parquet as pq
import redis
import yaml
from pg8000.native import Connection
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import load_settings
from recsys.lake.operations import SUCCEEDED, StageRun, record_run
from recsys.lake.publish import Published, publish
from recsys.lake.tables import Lake
from tests.conftest import REPOSITORY
from tests.spark.scored_lists import add_lists

NIGHTS = (date(2026, 3, 5), date(2026, 3, 6))
STORES = ("redis", "postgres")
KINDS = ("parquet", "jsonl", *STORES)
PASSWORD = "EXPORT_TEST_PASSWORD"
# What a careless writer would spoil.
AWKWARD = [
    'quo"te',
    "it's",
    "tab\there",
    "back\\slash",
    "new\nline",
    "naïve é😀",
    "{brace",
    "a,b",
    "",
]
USERS = [*AWKWARD, *(f"u{n:02d}" for n in range(30))]

Served = dict[str, tuple[str, str, list[dict[str, Any]]]]
"""User to night, model version and list, as a consumer finds them."""


def lists_of(night: date) -> dict[str, list[dict[str, Any]]]:
    """Every user's list of a night: other items and scores each night."""
    first = 10 * NIGHTS.index(night)
    return {
        user: [
            {"rank": rank, "item_id": f"i{first + rank}{user}", "score": at + rank / 8,
             "reason": "model"}
            for rank in range(1, 4)
        ]
        for at, user in enumerate(USERS)
    }  # fmt: skip


def expected(night: date, raw: bool = False) -> Served:
    name = raw_id if raw else str
    return {name(user): (str(night), "8", own) for user, own in lists_of(night).items()}


def raw_id(user: str) -> str:
    return f"raw of {user}"


def make_lake(spark: SparkSession, folder: Path) -> Lake:
    """Two nights of lists, of which none is published, and a vault."""
    lake = Lake(spark, load_settings(None, [f"lake.root={folder}/lake"]))
    rows = {night: list(lists_of(night).items()) for night in NIGHTS}
    add_lists(lake, rows)
    vault = schemas.SILVER_USER_VAULT
    known = [(raw_id(user), user) for user in USERS]
    lake.replace(vault, spark.createDataFrame(known, vault.ddl))
    for night in NIGHTS:
        record_run(lake, StageRun(night, "publish", SUCCEEDED, "f"))
    return lake


def make_live(lake: Lake, night: date) -> None:
    """Publish a night; later ones are published no more."""
    where = f"{schemas.RUN_DATE} > '{night}'"
    if lake.exists(schemas.OPS_PUBLISHED):
        lake.replace(schemas.OPS_PUBLISHED, lake.read(schemas.OPS_PUBLISHED).limit(0), where)
    publish(
        lake, Published(night, lake.version(schemas.GOLD_TOP_N), "recsys", "8", 0, 0, len(USERS))
    )


@dataclass(frozen=True)
class Consumers:
    """Targets of every kind below a folder, on two servers, and what their readers see.

    Attributes:
        folder: of the files; its name is part of every key and table.
        addresses: of the servers.
        password: of both.
    """

    folder: Path
    addresses: dict[str, str]
    password: str

    def target(self, kind: str, **changed: Any) -> dict[str, Any]:
        name = self.folder.name
        store = {"url": self.addresses.get(kind), "password_env": PASSWORD}
        of_kind: dict[str, dict[str, Any]] = {
            "redis": {**store, "prefix": name},
            "postgres": {**store, "table": name, "user": "recsys"},
        }
        files = {"path": str(self.folder / kind)}
        return {"kind": kind, **of_kind.get(kind, files), **changed}

    def conf(self, targets: dict[str, Any], **export: Any) -> Path:
        """A file of settings with these targets."""
        path = self.folder / "export.yaml"
        quick = {"retries": 1, "tasks": 2, "timeout_seconds": 30}
        path.write_text(yaml.safe_dump({
            "spark": {"master": "local[2]", "shuffle_partitions": 2},
            "export": {**quick, **export, "targets": targets},
        }, sort_keys=False))  # fmt: skip
        return path

    def served(self, kind: str) -> Served:
        """All that a consumer of a target can see now."""
        return {"redis": self._redis, "postgres": self._postgres}.get(
            kind, lambda: read_files(self.folder / kind)
        )()

    def _redis(self) -> Served:
        client, prefix = self.redis(), self.folder.name
        version = client.get(f"{prefix}:current")
        found = {u: json.loads(v) for u, v in client.hgetall(f"{prefix}:lists:{version}").items()}
        return {user: _entry(value) for user, value in found.items()}

    def _postgres(self) -> Served:
        rows = self.sql(f"select * from {self.folder.name}_current")
        return {user: (str(day), model, own) for user, day, model, own in rows}

    def read_as_documented(self, user_id: str) -> list[Any]:
        """A user's list by the page's lines for Redis and for Parquet files."""
        names: dict[str, Any] = {
            "client": self.redis(), "user_id": user_id, "json": json, "pyarrow": pyarrow,
            "path": self.folder / "parquet",
        }  # fmt: skip
        for lines in documented("python"):
            exec(lines.replace("shop:", f"{self.folder.name}:"), names)
        rows = names["lists"].to_pylist()
        of_user = next(r["recommendations"] for r in rows if r["user_id"] == user_id)
        statement = documented("sql")[0].replace("top_n", self.folder.name)
        found = self.sql(statement.replace("4d9f0e0c", user_id.replace("'", "''")))
        assert [dict(zip(of_user[0], row, strict=True)) for row in found] == of_user
        return [names["recommendations"], of_user]

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(
            self.addresses["redis"], password=self.password, decode_responses=True
        )

    def sql(self, statement: str) -> list[Any]:
        with closing(self.connect()) as link:
            return link.run(statement) or []

    def connect(self) -> Connection:
        parts = urlsplit(self.addresses["postgres"])
        return Connection(
            "recsys", host=parts.hostname, port=parts.port, database=parts.path[1:],
            password=self.password, ssl_context=False,
        )  # fmt: skip

    def versions(self, kind: str) -> list[str]:
        """The versions that a target keeps."""
        if kind == "redis":
            prefix = f"{self.folder.name}:lists:"
            return sorted(key.removeprefix(prefix) for key in self.redis().keys(f"{prefix}*"))
        if kind == "postgres":
            rows = self.sql(f"select distinct version from {self.folder.name} order by 1")
            return [row[0] for row in rows]
        folders = (self.folder / kind).glob("version=*")
        return sorted({path.name[8:].partition(".")[0] for path in folders})

    def traces(self, kind: str) -> Any:
        """What any write to a target changes."""
        if kind == "redis":
            return self.redis().info("persistence")["rdb_changes_since_last_save"]
        if kind == "postgres":
            name = self.folder.name
            return [
                self.sql(f"select xmin::text, ctid::text, * from {table} order by 1, 2")
                for table in (name, f"{name}_versions")
            ]
        files = sorted(path for path in (self.folder / kind).rglob("*"))
        return [(path, path.stat().st_mtime_ns, path.stat().st_ino) for path in files]


def read_files(folder: Path) -> Served:
    pointer = json.loads((folder / "_CURRENT.json").read_text())
    files = folder / pointer["folder"]
    if folder.name == "parquet":
        rows = [row for path in files.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    else:
        lines = [line for path in files.glob("*.json") for line in path.read_text().split("\n")]
        rows = [json.loads(line) for line in lines if line]
    assert len(rows) == pointer["lists"]
    return {row["user_id"]: _entry(row) for row in rows}


def _entry(row: dict[str, Any]) -> tuple[str, str, list[dict[str, Any]]]:
    return str(row["run_date"]), row["model_version"], row["recommendations"]


@contextmanager
def cut_off(address: str, after_bytes: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """A way to a server on which each connection breaks after so many bytes; and its mending."""
    parts = urlsplit(address)
    left = [after_bytes]
    door = create_server(("127.0.0.1", 0))

    def pass_on(source: socket, sink: socket, limited: bool) -> None:
        while data := _receive(source):
            left[0] -= len(data) if limited else 0
            if left[0] < 0 or not _send(sink, data):
                break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                client = door.accept()[0]
            except OSError:
                return
            server = create_connection((parts.hostname or "", parts.port or 0))
            for ends in ((client, server, True), (server, client, False)):
                threading.Thread(target=pass_on, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()

    def mend() -> None:
        left[0] = 1 << 40

    with door:
        port = door.getsockname()[1]
        yield address.replace(f":{parts.port}", f":{port}"), mend


def _receive(source: socket) -> bytes:
    try:
        return source.recv(4096)
    except OSError:
        return b""


def _send(sink: socket, data: bytes) -> bool:
    try:
        sink.sendall(data)
    except OSError:
        return False
    return True


def documented(language: str) -> list[str]:
    """The examples of docs/export.md in a language."""
    page = (REPOSITORY / "docs/export.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
