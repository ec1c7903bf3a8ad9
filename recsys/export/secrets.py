"""Passwords and certificates of stores: from the environment or a file, never from settings."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from recsys.config import StoreTarget
from recsys.errors import ConfigError


def read_password(target: StoreTarget, at: str) -> str | None:
    """A store's password; ``None`` where the target names none.

    Args:
        at: the target's key in the settings, for messages.

    Raises:
        ConfigError: the variable is not set, or the file can't be read, or can be by others.
    """
    if target.password_env:
        value = os.environ.get(target.password_env)
        if not value:
            raise ConfigError(
                f"the environment variable {target.password_env} is not set",
                where=f"{at}.password_env",
                do="set it to the store's password where the driver of this job runs",
            )
        return value
    if not target.password_file:
        return None
    path = Path(target.password_file).expanduser()
    text = _read(path, f"{at}.password_file")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(
            "the file with the store's password can be read by others",
            where=f"{at}.password_file={path}",
            do=f"chmod 600 {path}",
        )
    return text.rstrip("\r\n")


def read_certificates(target: StoreTarget, at: str) -> str | None:
    """What is in ``ca_file``; ``None`` where the target names none.

    Raises:
        ConfigError: the file can't be read.
    """
    if not target.ca_file:
        return None
    return _read(Path(target.ca_file).expanduser(), f"{at}.ca_file")


def _read(path: Path, key: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"{key} can't be read: {reason}",
            where=str(path),
            do="give a file that the driver of this job can read",
        ) from None
