"""Lists in PostgreSQL: a table of all versions, a table that says which is live, and a view.

``TABLE``           (version, user_id, run_date, model_version, recommendations jsonb)
``TABLE_versions``  (version, lists, live): every version that is there, or was begun
``TABLE_current``   the view that readers use: the lists of the live version

A statement sees the database as of one moment, so a reader of the view never sees two versions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Export, PostgresTarget
from recsys.errors import ExportError
from recsys.export.lists import Lists
from recsys.export.partitions import Patience, send_rows
from recsys.export.postgres_connection import Link, PostgresConnector, close
from recsys.export.postgres_tables import Tables

Result = TypeVar("Result")

_LONG_SECONDS = 3600
"""For what the database does with a whole version: counting and removing it."""


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

        def move(link: Link) -> None:
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
        def take_away(link: Link) -> None:
            self._lock(link)
            link.run(
                f"delete from {self._table}_versions where version = :version and not live",
                version=version,
            )
            if link.row_count:
                link.run(f"delete from {self._table} where version = :version", version=version)

        self._transact(take_away, _LONG_SECONDS)

    def _make_tables(self, link: Link) -> None:
        view = f"{self._table}_current"
        if link.run("select to_regclass(:view) is not null", view=view)[0][0]:
            return  # the role need have no right to create tables
        self._lock(link)
        for statement in Tables(self._table).ddl:
            link.run(statement)

    def _lock(self, link: Link) -> None:
        """One at a time makes tables, moves the pointer or removes versions."""
        link.run("select pg_advisory_xact_lock(hashtext(:name))", name=f"recsys {self._table}")

    def _count(self, link: Link, version: str) -> int:
        rows = link.run(
            f"select count(*) from {self._table} where version = :version", version=version
        )
        return int(rows[0][0])

    def _run(self, statement: str, **values: Any) -> list[Any]:
        return self._transact(lambda link: link.run(statement, **values) or [])

    def _transact(self, act: Callable[[Link], Result], seconds: int = 0) -> Result:
        """Do something in a transaction of a connection of its own."""

        def once() -> Result:
            link = self._connector.connect(seconds or self._settings.timeout_seconds)
            try:
                link.run("start transaction")
                result = act(link)
                link.run("commit")
                return result
            finally:
                close(link)

        return self._patience.ask(once, self._connector)
