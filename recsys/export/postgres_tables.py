"""The tables of a target in PostgreSQL, and the statements that make and fill them."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.export.lists import COLUMNS


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
