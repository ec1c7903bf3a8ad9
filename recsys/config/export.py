"""Settings of where published lists are copied to, for those who don't read Delta."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from recsys.config.section import Section
from recsys.errors import ConfigError

_NAME = r"^[a-z0-9][a-z0-9_-]*$"
_IDENTIFIER = r"[a-z_][a-z0-9_]{0,39}"
_SSL_MODES = ("disable", "require", "verify-full")
_USER_INFO = re.compile(r"://[^/?#]*@")


class _AnyTarget(Section):
    raw_user_ids: bool | None = Field(
        default=None,
        description="the log's user ids instead of pseudonyms; null: as export.raw_user_ids",
    )


class FileTarget(_AnyTarget):
    kind: Literal["parquet", "jsonl"] = Field(description="Parquet files, or a JSON object a line")
    path: str = Field(min_length=1, description="folder, hdfs:// or s3a:// path, of this target")


class _StoreTarget(_AnyTarget):
    password_env: str | None = Field(
        default=None, min_length=1, description="environment variable that holds the password"
    )
    password_file: str | None = Field(
        default=None, min_length=1, description="file that holds the password (mode 600)"
    )
    ca_file: str | None = Field(
        default=None,
        min_length=1,
        description="certificates (PEM) that the server's is checked with; null: the system's",
    )

    @field_validator("url", check_fields=False)
    @classmethod
    def _check_url(cls, url: str) -> str:
        if _USER_INFO.search(url) or re.search(r"[?&](user|username|password)=", url):
            raise ValueError(
                "must hold neither user nor password: they belong into user and password_env or "
                "password_file"
            )
        return url

    @model_validator(mode="after")
    def _check_password(self) -> _StoreTarget:
        if self.password_env and self.password_file:
            raise ValueError(
                f"password_env={self.password_env} and password_file={self.password_file} exclude "
                "each other"
            )
        return self


class RedisTarget(_StoreTarget):
    kind: Literal["redis"] = Field(description="a Redis server, or one that speaks its protocol")
    url: str = Field(
        pattern=r"^rediss?://",
        description="redis://host:port/database; rediss:// for TLS. Without user and password",
    )
    prefix: str = Field(
        pattern=r"^[A-Za-z0-9_.:-]+$", description="what the names of all keys begin with"
    )
    user: str | None = Field(default=None, min_length=1, description="of the server's ACL")


class PostgresTarget(_StoreTarget):
    kind: Literal["postgres"] = Field(description="a PostgreSQL database (from version 12)")
    url: str = Field(
        pattern=r"^postgres(ql)?://[^/]+/[^/]+$",
        description="postgresql://host:port/database; ?sslmode=disable for no TLS, require for TLS "
        "without looking at the certificate, verify-full (as without it) to check it",
    )
    table: str = Field(
        pattern=rf"^({_IDENTIFIER}\.)?{_IDENTIFIER}$",
        description="table of the lists, or schema.table; beside it lie TABLE_versions and the "
        "view TABLE_current",
    )
    user: str = Field(min_length=1, description="role that owns the tables, or may create them")

    @field_validator("url")
    @classmethod
    def _check_mode(cls, url: str) -> str:
        query = url.partition("?")[2]
        if query and query not in {f"sslmode={mode}" for mode in _SSL_MODES}:
            raise ValueError(f"?{query} is not known, only ?sslmode= {', '.join(_SSL_MODES)}")
        return url


Target = Annotated[FileTarget | RedisTarget | PostgresTarget, Field(discriminator="kind")]
StoreTarget = RedisTarget | PostgresTarget
TARGET_KINDS: dict[str, type[_AnyTarget]] = {
    "parquet": FileTarget,
    "jsonl": FileTarget,
    "redis": RedisTarget,
    "postgres": PostgresTarget,
}


class Export(Section):
    raw_user_ids: bool = Field(
        description="the log's user ids instead of pseudonyms, looked up in the vault: the copies "
        "are then personal data"
    )
    keep_versions: int = Field(
        ge=1, description="versions of the lists that a target keeps, the one in force among them"
    )
    tasks: int = Field(
        ge=1, description="Spark tasks, so connections, that write to a store at once at most"
    )
    batch_lists: int = Field(
        ge=1, description="lists that a store is sent at once: a command, a transaction"
    )
    retries: int = Field(ge=0, description="times that a store is asked again that doesn't answer")
    timeout_seconds: int = Field(ge=1, description="wait for a store's answer")
    targets: dict[Annotated[str, Field(pattern=_NAME)], Target] = Field(
        description="name to target: kind parquet, jsonl, redis or postgres, and where it is "
        "(docs/export.md)"
    )

    @field_validator("targets")
    @classmethod
    def _check_places(cls, targets: dict[str, Target]) -> dict[str, Target]:
        taken: dict[tuple[str, str], str] = {}
        for name, target in targets.items():
            place = _place_of(target)
            if place in taken:
                raise ValueError(f"{taken[place]} and {name} are the same place")
            taken[place] = name
        return targets


def _place_of(target: FileTarget | StoreTarget) -> tuple[str, str]:
    if isinstance(target, FileTarget):
        return target.path.rstrip("/"), ""
    return target.url, target.prefix if isinstance(target, RedisTarget) else target.table


def explain_target(error: Mapping[str, Any], sources: Mapping[str, str]) -> ConfigError | None:
    """An error of pydantic in words, if it lies in a target; else ``None``.

    The value is shown only where it can't be a secret that was put into the wrong place.
    """
    place: Sequence[str | int] = error["loc"]
    if place[:2] != ("export", "targets"):
        return None
    at = ".".join(str(part) for part in place[:3])
    where = next((s for key, s in sources.items() if f"{key}.".startswith(f"{at}.")), "")
    if error["type"].startswith("union_tag"):
        given = error.get("ctx", {}).get("tag")
        what = f"{at}.kind={given!r} is not known" if given else f"{at}.kind is missing"
        return ConfigError(what, where=where, do=f"one of {', '.join(TARGET_KINDS)}")
    if error["type"] == "value_error" and len(place) == 2:
        return ConfigError(f"{at}: {_words(error)}", where=where, do="give each a place of its own")
    if len(place) < 4:
        return None
    if place[3] == "[key]":
        return ConfigError(f"export.targets: the name {place[2]!r} is not allowed: {_words(error)}")
    # Behind the name pydantic puts the kind, and then the field.
    fields = TARGET_KINDS[str(place[3])].model_fields
    if len(place) < 5:
        return ConfigError(f"{at}: {_words(error)}", where=where)
    field = str(place[4])
    key = f"{at}.{field}"
    if error["type"] == "extra_forbidden":
        known = ", ".join(fields)
        return ConfigError(f"unknown setting {key}", where=where, do=f"known: {known}")
    meaning = fields[field].description or ""
    if error["type"] == "missing":
        return ConfigError(f"{key} is missing", where=where, do=meaning)
    value = error["input"]
    shown = "" if _USER_INFO.search(str(value)) or "password=" in str(value) else f"={value!r}"
    return ConfigError(f"{key}{shown} is not allowed: {_words(error)}", where=where, do=meaning)


def _words(error: Mapping[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ")
    return text[0].lower() + text[1:]
