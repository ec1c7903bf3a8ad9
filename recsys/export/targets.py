"""From a target's settings to the store that it means."""

from __future__ import annotations

from recsys.config import FileTarget, RedisTarget
from recsys.config.export import Target
from recsys.errors import ConfigError
from recsys.export.contract import Store
from recsys.export.secrets import read_certificates, read_password
from recsys.lake.tables import Lake


def open_store(lake: Lake, name: str, target: Target) -> Store:
    """The store of a target; nothing is sent yet.

    Raises:
        ConfigError: a password can't be read, or the store's client is not installed.
    """
    if isinstance(target, FileTarget):
        from recsys.export.files import FileStore

        return FileStore(lake.spark, target)
    at = f"export.targets.{name}"
    secrets = read_password(target, at), read_certificates(target, at)
    settings = lake.settings.export
    try:
        if isinstance(target, RedisTarget):
            from recsys.export.redis_store import RedisStore

            return RedisStore(target, settings, *secrets)
        from recsys.export.postgres import PostgresStore

        return PostgresStore(target, settings, *secrets)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the client for {target.kind} is not installed: {error.name}",
            where=at,
            do="pip install 'recsys[export]', on the driver and the executors",
        ) from None
