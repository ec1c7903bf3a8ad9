"""Lists in PostgreSQL: a table of all versions, a table that says which is live, and a view.

``TABLE``           (version, user_id, run_date, model_version, recommendations jsonb)
``TABLE_versions``  (version, lists, live): every version that is there, or was begun
``TABLE_current``   the view that readers use: the lists of the live version

A statement sees the database as of one moment, so a reader of the view never sees two versions.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Export, PostgresTarget
from recsys.errors import ExportError, first_line
from recsys.export.lists import COLUMNS, Lists
from recsys.export.partitions import Patience, Row, send_rows

Result = TypeVar("Result")

_LONG_SECONDS = 3600
"""For what the database does with a whole version: counting and removing it."""
_LOGIN = ("28",)
_PASSING = ("08", "40", "53", "57P")
"""Classes of SQLSTATE: connection, rollback (deadlock), too little of something, shutdown."""


@dataclass(frozen=True)
class Tables:
    """The statements of a target; names come from checked settings, values are parameters."""

    name: str

    @property
    def ddl(self) -> tuple[str, ...]:
        index = f"{self.name.rpartition('.')[2]}_one_live"
        return (
            f"create table if not exists {self.name} (version text not null, "
            "user_id text not null, run_date date not null, model_version text not null, "
            "recommendations jsonb not null, primary key (version, user_id))",
            f"create table if not exists {self.name}_versions (version text primary key, "
            "lists bigint, live boolean not null default false)",
            f"create unique index if not exists {index} on {self.name}_versions (live) where live",
            f"create or replace view {self.name}_current as "
            f"select user_id, run_date, model_version, recommendations from {self.name} "
            f"where version = (select version from {self.name}_versions where live)",
        )

    @property
    def staging(self) -> str:
        return (
            "create temporary table recsys_lists (user_id text, run_date date, "
            "model_version text, recommendations jsonb) on commit drop"
        )

    @property
    def upsert(self) -> str:
        return (
            f"insert into {self.name} as old (version, {', '.join(COLUMNS)}) "
            f"select :version, {', '.join(COLUMNS)} from recsys_lists "
            "on conflict (version, user_id) do update set run_date = excluded.run_date, "
            "model_version = excluded.model_version, recommendations = excluded.recommendations "
            "where (old.run_date, old.model_version, old.recommendations) is distinct from "
            "(excluded.run_date, excluded.model_version, excluded.recommendations)"
        )


@dataclass(frozen=True)
class PostgresConnector:
    """How the database is reached, and what a task writes."""

    url: str
    user: str
    password: str | None = field(repr=False)
    certificates: str | None = field(repr=False)
    timeout_seconds: int
    tables: Tables
    version: str = ""

    def connect(self, timeout_seconds: int) -> Connection:
        parts = urlsplit(self.url)
        mode = parse_qs(parts.query).get("sslmode", ["verify-full"])[0]
        connection = Connection(
            self.user,
            host=parts.hostname or "",
            port=parts.port or 5432,
            database=unquote(parts.path.removeprefix("/")),
            password=self.password,
            timeout=timeout_seconds,
            ssl_context=_tls(mode, self.certificates),
            application_name="recsys export",
        )
        # "already exists" is no news.
        connection.run("set client_min_messages = warning")
        return connection

    def open(self) -> _PostgresConnection:
        return _PostgresConnection(self.connect(self.timeout_seconds), self.tables, self.version)

    def may_pass(self, error: Exception) -> bool:
        if isinstance(error, DatabaseError):
            return _state(error).startswith(_PASSING)
        return isinstance(error, (InterfaceError, OSError)) and not isinstance(error, ssl.SSLError)

    def explain(self, error: Exception) -> ExportError:
        if isinstance(error, DatabaseError) and _state(error).startswith(_LOGIN):
            what, do = "PostgreSQL refuses the login", "check user, password_env and password_file"
        elif isinstance(error, DatabaseError):
            what = "PostgreSQL refuses a statement"
            do = f"look at the server's log (SQLSTATE {_state(error)}), and at docs/export.md"
        elif isinstance(error, ssl.SSLError):
            what = "PostgreSQL's certificate is not accepted"
            do = "check ca_file, and the url's host"
        elif self.may_pass(error):
            what, do = "PostgreSQL does not answer", "check that it runs, and the url"
        else:
            what = f"PostgreSQL's client fails, {type(error).__name__}"
            do = "RECSYS_DEBUG=1 says more"
        text = _message(error)
        if self.password:
            text = text.replace(self.password, "***")
        return ExportError(f"{what}: {text}", where=self.url, do=do)


def _tls(mode: str, certificates: str | None) -> ssl.SSLContext | bool:
    if mode == "disable":
        return False
    context = ssl.create_default_context(cadata=certificates)
    if mode == "require":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _state(error: DatabaseError) -> str:
    fields = error.args[0] if error.args else {}
    return str(fields.get("C", "")) if isinstance(fields, dict) else ""


def _message(error: Exception) -> str:
    fields = error.args[0] if error.args else ""
    if isinstance(fields, dict):
        return str(fields.get("M", fields))
    return first_line(error)


@dataclass(frozen=True)
class _PostgresConnection:
    connection: Connection
    tables: Tables
    version: str

    def send(self, rows: Sequence[Row]) -> None:
        """``COPY`` into a table of this transaction, and from there an upsert."""
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
        text.seek(0)
        run = self.connection.run
        run("start transaction")
        run(self.tables.staging)
        run("copy recsys_lists from stdin with (format csv)", stream=text)
        run(self.tables.upsert, version=self.version)
        run("commit")

    def close(self) -> None:
        _close(self.connection)


def _close(connection: Connection) -> None:
    with suppress(InterfaceError, OSError):
        connection.close()


class PostgresStore:
    """A target of kind postgres."""

    def __init__(
        self,
        target: PostgresTarget,
        settings: Export,
        password: str | None = None,
        certificates: str | None = None,
    ) -> None:
        self.place = f"{target.url}, table {target.table}"
        self._settings = settings
        self._patience = Patience(settings.retries)
        self._table = target.table
        self._connector = PostgresConnector(
            target.url, target.user, password, certificates, settings.timeout_seconds,
            Tables(target.table),
        )  # fmt: skip

    def current(self) -> str | None:
        """Makes the tables where they are not there: the first that an export asks for."""
        self._transact(self._make_tables)
        rows = self._run(f"select version from {self._table}_versions where live")
        return str(rows[0][0]) if rows else None

    def count(self, version: str) -> int:
        return self._transact(lambda link: self._count(link, version), _LONG_SECONDS)

    def write(self, lists: Lists) -> None:
        """``COPY`` and upsert in batches from Spark's tasks, a transaction each."""
        # Known before the first list is there, so that what a kill leaves is found and removed.
        self._run(
            f"insert into {self._table}_versions (version) values (:version) "
            "on conflict do nothing",
            version=lists.version,
        )
        rows = lists.rows.select(
            schemas.USER_ID,
            F.col(schemas.RUN_DATE).cast("string"),
            schemas.MODEL_VERSION,
            F.to_json(schemas.RECOMMENDATIONS),
        )
        connector = dataclasses.replace(self._connector, version=lists.version)
        settings = self._settings
        send_rows(rows, connector, self._patience, settings.tasks, settings.batch_lists)

    def make_current(self, lists: Lists) -> None:
        """Two updates of ``TABLE_versions`` in a transaction, after the lists are counted in it."""

        def move(link: Connection) -> None:
            self._lock(link)
            found = self._count(link, lists.version)
            link.run(f"update {self._table}_versions set live = false where live")
            link.run(
                f"update {self._table}_versions set live = true, lists = :lists "
                "where version = :version",
                lists=lists.count,
                version=lists.version,
            )
            if found != lists.count or link.row_count != 1:
                raise ExportError(
                    f"{found:,} of {lists.count:,} lists are left",
                    where=f"{self.place}, version {lists.version}",
                    do="another export has removed them: run this one again",
                )

        self._transact(move, _LONG_SECONDS)

    def versions(self) -> list[str]:
        rows = self._run(f"select version from {self._table}_versions order by version")
        return [str(row[0]) for row in rows]

    def remove(self, version: str) -> None:
        def take_away(link: Connection) -> None:
            self._lock(link)
            link.run(
                f"delete from {self._table}_versions where version = :version and not live",
                version=version,
            )
            if link.row_count:
                link.run(f"delete from {self._table} where version = :version", version=version)

        self._transact(take_away, _LONG_SECONDS)

    def _make_tables(self, link: Connection) -> None:
        view = f"{self._table}_current"
        if link.run("select to_regclass(:view) is not null", view=view)[0][0]:
            return  # the role need have no right to create tables
        self._lock(link)
        for statement in Tables(self._table).ddl:
            link.run(statement)

    def _lock(self, link: Connection) -> None:
        """One at a time makes tables, moves the pointer or removes versions."""
        link.run("select pg_advisory_xact_lock(hashtext(:name))", name=f"recsys {self._table}")

    def _count(self, link: Connection, version: str) -> int:
        rows = link.run(
            f"select count(*) from {self._table} where version = :version", version=version
        )
        return int(rows[0][0])

    def _run(self, statement: str, **values: Any) -> list[Any]:
        return self._transact(lambda link: link.run(statement, **values) or [])

    def _transact(self, act: Callable[[Connection], Result], seconds: int = 0) -> Result:
        """Do something in a transaction of a connection of its own."""

        def once() -> Result:
            link = self._connector.connect(seconds or self._settings.timeout_seconds)
            try:
                link.run("start transaction")
                result = act(link)
                link.run("commit")
                return result
            finally:
                _close(link)

        return self._patience.ask(once, self._connector)
