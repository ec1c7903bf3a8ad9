"""Keyed pseudonyms for users: HMAC-SHA-256 in Spark SQL, the key never in a config or a plan."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Settings
from recsys.errors import ConfigError, LakeError
from recsys.lake.files import bytes_of
from recsys.lake.local import local_frame
from recsys.lake.operations import state_fact
from recsys.lake.tables import Lake

KEY_VARIABLE = "RECSYS_PSEUDONYM_KEY"
_BLOCK_BYTES = 64
_HEX_DIGITS = 32
_CHECK = "pseudonym_key_check"
_OFF = "off"


def load_key(settings: Settings) -> bytes | None:
    """The key from the environment or the key file (made at first use); ``None``: pseudonyms off.

    Raises:
        ConfigError: the key is too short, or the file can be read by others.
    """
    if not settings.privacy.pseudonyms:
        return None
    if text := os.environ.get(KEY_VARIABLE):
        return _check_length(text.encode(), f"environment variable {KEY_VARIABLE}")
    path = Path(settings.privacy.key_file).expanduser()
    try:
        if not path.exists():
            _make_key(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(
                "the pseudonym key can be read by others", where=str(path), do=f"chmod 600 {path}"
            )
        return _check_length(path.read_bytes().strip(), str(path))
    except OSError as error:
        raise ConfigError(
            f"the pseudonym key can't be read or made: {error.strerror}",
            where=str(path),
            do=f"set privacy.key_file, or the environment variable {KEY_VARIABLE}",
        ) from None


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        # A link fails where another process made the key meanwhile: the first one wins.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _check_length(key: bytes, where: str) -> bytes:
    if len(key) < 16:
        raise ConfigError(
            "the pseudonym key is shorter than 16 bytes",
            where=where,
            do="e.g. openssl rand -hex 32",
        )
    return key


def pseudonym(key: bytes | None, raw_user_id: str) -> str:
    """One user's pseudonym: the first 128 bits of HMAC-SHA-256 (RFC 2104), as 32 hex digits."""
    if key is None:
        return raw_user_id
    return hmac.new(key, raw_user_id.encode(), hashlib.sha256).hexdigest()[:_HEX_DIGITS]


def add_pseudonyms(rows: DataFrame, key: bytes | None) -> DataFrame:
    """Add ``user_id`` from ``raw_user_id``; equal to :func:`pseudonym`, at Spark's speed.

    HMAC is two SHA-256 over the key's two pads. They come in as a one-row table, since a literal
    would show the key in Spark's plans, its UI and its event log.
    """
    if key is None:
        return rows.withColumn(schemas.USER_ID, F.col(schemas.RAW_USER_ID))
    block = hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key
    block = block.ljust(_BLOCK_BYTES, b"\0")
    inner, outer = (bytearray(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
    pads = local_frame(rows.sparkSession, [(inner, outer)], "_inner binary, _outer binary")
    raw = F.encode(F.col(schemas.RAW_USER_ID), "UTF-8")
    user_id = bytes_of(_hash("_outer", _hash("_inner", raw)), 1, _HEX_DIGITS)
    keyed = rows.crossJoin(F.broadcast(pads)).withColumn(schemas.USER_ID, user_id)
    return keyed.drop("_inner", "_outer")


def _hash(pad: str, message: Column) -> Column:
    binary = message if pad == "_inner" else F.unhex(message)
    return F.sha2(F.concat(F.col(pad), binary), 256)


def check_key(lake: Lake, key: bytes | None) -> None:
    """Refuse a key other than the one that the lake's pseudonyms were made with.

    Raises:
        LakeError: the lake was made with another key, or with pseudonyms switched the other way.
    """
    mine = _OFF if key is None else pseudonym(key, _CHECK)
    if state_fact(lake, _CHECK, mine) != mine:
        raise LakeError(
            "the pseudonym key is not the one that this lake was made with",
            where=lake.path(schemas.OPS_LAKE),
            do=f"restore the old key (privacy.key_file or {KEY_VARIABLE}); with another one every "
            "user would look new",
        )
