"""How PostgreSQL is reached, what a task of Spark sends to it, and what its errors mean.

The only importer of its client.
"""

from __future__ import annotations

import csv
import io
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection

from recsys.errors import ExportError, first_line
from recsys.export.partitions import Row
from recsys.export.postgres_tables import Tables

Link: TypeAlias = Connection
"""A connection of the driver's: its ``run`` takes a statement and its parameters by name."""

_LOGIN = ("28",)
_PASSING = ("08", "40", "53", "57P")
"""Classes of SQLSTATE: connection, rollback (deadlock), too little of something, shutdown."""


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
        close(self.connection)


def close(connection: Connection) -> None:
    with suppress(InterfaceError, OSError):
        connection.close()
