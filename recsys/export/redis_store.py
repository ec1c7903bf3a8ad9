"""Lists in Redis: a hash a version, and a key that names the version in force.

``PREFIX:current``        the version (a string)
``PREFIX:lists:VERSION``  user_id to {run_date, model_version, recommendations}, JSON (a hash)
``PREFIX:versions``       every version that is there, or was begun (a set)

One hash a version is counted and removed by one command each, however large it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from pyspark.sql import functions as F
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys import schemas
from recsys.config import Export, RedisTarget
from recsys.errors import ExportError, first_line
from recsys.export.lists import COLUMNS, Lists
from recsys.export.partitions import Patience, Row, send_rows

_PASSING = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.BusyLoadingError,
    redis.WatchError,
    OSError,
)
_REFUSED = (
    redis.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.AuthenticationWrongNumberOfArgsError,
)


@dataclass(frozen=True)
class Keys:
    """The names of a target's keys."""

    prefix: str

    @property
    def current(self) -> str:
        return f"{self.prefix}:current"

    @property
    def versions(self) -> str:
        return f"{self.prefix}:versions"

    def lists(self, version: str) -> str:
        return f"{self.prefix}:lists:{version}"


@dataclass(frozen=True)
class RedisConnector:
    """How the server is reached."""

    url: str
    user: str | None
    password: str | None = field(repr=False)
    certificates: str | None = field(repr=False)
    timeout_seconds: int
    key: str = ""

    def client(self) -> redis.Redis:
        """A client that answers in text and asks once."""
        tls = {"ssl_ca_data": self.certificates} if self.certificates else {}
        return redis.Redis.from_url(
            self.url,
            username=self.user,
            password=self.password,
            decode_responses=True,
            socket_timeout=self.timeout_seconds,
            socket_connect_timeout=self.timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            **tls,
        )

    def open(self) -> _RedisConnection:
        return _RedisConnection(self.client(), self.key)

    def may_pass(self, error: Exception) -> bool:
        return isinstance(error, _PASSING) and not isinstance(error, _REFUSED)

    def explain(self, error: Exception) -> ExportError:
        if isinstance(error, _REFUSED):
            what, do = "Redis refuses the login", "check user, password_env and password_file"
        elif "CERTIFICATE_VERIFY_FAILED" in str(error):
            what, do = "Redis's certificate is not accepted", "check ca_file, and the url's host"
        elif self.may_pass(error):
            what, do = "Redis does not answer", "check that it runs, and the url"
        elif isinstance(error, redis.RedisError):
            what, do = "Redis refuses a command", "look at the server: its log, INFO memory"
        else:
            what, do = f"Redis's client fails, {type(error).__name__}", "RECSYS_DEBUG=1 says more"
        text = first_line(error)
        if self.password:
            text = text.replace(self.password, "***")
        return ExportError(f"{what}: {text}", where=self.url, do=do)


@dataclass(frozen=True)
class _RedisConnection:
    client: redis.Redis
    key: str

    def send(self, rows: Sequence[Row]) -> None:
        self.client.hset(self.key, items=[text for row in rows for text in row])

    def close(self) -> None:
        self.client.close()


class RedisStore:
    """A target of kind redis."""

    def __init__(
        self,
        target: RedisTarget,
        settings: Export,
        password: str | None = None,
        certificates: str | None = None,
    ) -> None:
        self.place = target.url
        self._keys = Keys(target.prefix)
        self._settings = settings
        self._patience = Patience(settings.retries)
        self._connector = RedisConnector(
            target.url, target.user, password, certificates, settings.timeout_seconds
        )
        self._client = self._connector.client()

    def current(self) -> str | None:
        found: str | None = self._ask("get", self._keys.current)
        return found

    def count(self, version: str) -> int:
        return int(self._ask("hlen", self._keys.lists(version)))

    def write(self, lists: Lists) -> None:
        """``HSET`` in batches from Spark's tasks."""
        # Known before the first list is there, so that what a kill leaves is found and removed.
        self._ask("sadd", self._keys.versions, lists.version)
        values = F.to_json(F.struct(*[name for name in COLUMNS if name != schemas.USER_ID]))
        rows = lists.rows.select(schemas.USER_ID, values.alias("value"))
        connector = dataclasses.replace(self._connector, key=self._keys.lists(lists.version))
        settings = self._settings
        send_rows(rows, connector, self._patience, settings.tasks, settings.batch_lists)

    def make_current(self, lists: Lists) -> None:
        """``SET`` of the pointer, which fails if the lists have changed since they were counted."""
        key = self._keys.lists(lists.version)

        def move(pipe: Any) -> None:
            found = pipe.hlen(key)
            if found != lists.count:
                raise ExportError(
                    f"{found:,} of {lists.count:,} lists are left",
                    where=f"{self.place}, {key}",
                    do="another export has removed them: run this one again",
                )
            pipe.multi()
            pipe.sadd(self._keys.versions, lists.version)
            pipe.set(self._keys.current, lists.version)

        self._transact(move, key)

    def versions(self) -> list[str]:
        return sorted(self._ask("smembers", self._keys.versions))

    def remove(self, version: str) -> None:
        def take_away(pipe: Any) -> None:
            current = pipe.get(self._keys.current)
            pipe.multi()
            if current != version:
                # The memory is freed by another thread of the server, however much it is.
                pipe.unlink(self._keys.lists(version))
                pipe.srem(self._keys.versions, version)

        self._transact(take_away, self._keys.current)

    def _ask(self, command: str, *arguments: str) -> Any:
        def act() -> Any:
            return getattr(self._client, command)(*arguments)

        return self._patience.ask(act, self._connector)

    def _transact(self, act: Any, *watched: str) -> None:
        def once() -> None:
            with self._client.pipeline() as pipe:
                pipe.watch(*watched)
                act(pipe)
                pipe.execute()

        self._patience.ask(once, self._connector)

    def close(self) -> None:
        with suppress(redis.RedisError):
            self._client.close()
