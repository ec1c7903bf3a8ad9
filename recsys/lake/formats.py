"""Log formats: a YAML file in ``conf/formats/`` says what a log looks like."""

from __future__ import annotations

import difflib
import zoneinfo
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from recsys import schemas
from recsys.config import Section, conf_dir
from recsys.errors import ConfigError

REQUIRED = (schemas.USER_ID, schemas.ITEM_ID, schemas.EVENT_TYPE, schemas.EVENT_TS)
OPTIONAL = (schemas.RATING, schemas.VALUE)

# Why a record is rejected, in the order in which the rules are tried.
BINARY = "binary"
MALFORMED = "malformed"
MISSING_USER_ID = "missing_user_id"
MISSING_ITEM_ID = "missing_item_id"
UNKNOWN_EVENT_TYPE = "unknown_event_type"
BAD_TIMESTAMP = "bad_timestamp"
BAD_RATING = "bad_rating"
BAD_VALUE = "bad_value"
AFTER_RUN_DATE = "after_run_date"
TOO_LATE = "too_late"
REASONS = (
    BINARY,
    MALFORMED,
    MISSING_USER_ID,
    MISSING_ITEM_ID,
    UNKNOWN_EVENT_TYPE,
    BAD_TIMESTAMP,
    BAD_RATING,
    BAD_VALUE,
    AFTER_RUN_DATE,
    TOO_LATE,
)


class Catalogue(Section):
    """A delimited file with a header that names the items."""

    file: str = Field(description="path relative to the input")
    delimiter: str = Field(default="\t", min_length=1, description="between columns")
    item_id: str = Field(description="its column with the item's id")
    title: str | None = Field(default=None, description="its column with the item's title")
    attributes: dict[str, str] = Field(default_factory=dict, description="our name to its column")


class UserFile(Section):
    """A delimited file with a header that says something of users: personal data.

    It is read for the attributes alone that ``privacy.user_attributes`` names.
    """

    file: str = Field(description="path relative to the input")
    delimiter: str = Field(default="\t", min_length=1, description="between columns")
    user_id: str = Field(description="its column with the user's id, as in the log")
    attributes: dict[str, str] = Field(min_length=1, description="our name to its column")
    bands: dict[str, tuple[float, ...]] = Field(
        default_factory=dict,
        description="our name to the lower ends of bands, ascending: of a number the band alone is "
        "kept, e.g. [18, 25] makes <18, 18-25 (25 not in it) and 25+",
    )

    @model_validator(mode="after")
    def _check_bands(self) -> UserFile:
        for name, ends in self.bands.items():
            if name not in self.attributes:
                known = ", ".join(sorted(self.attributes))
                raise ValueError(f"users.bands: {name} is not one of the attributes {known}")
            if not ends or list(ends) != sorted(set(ends)):
                raise ValueError(f"users.bands: {name} needs ascending numbers, not {list(ends)}")
        return self


class LogFormat(Section):
    """What a log looks like and how its columns become ours."""

    kind: Literal["json", "csv", "parquet"] = Field(description="json is one object a line")
    delimiter: str = Field(default=",", min_length=1, description="between columns (csv)")
    header: bool = Field(default=False, description="the first line names the columns (csv)")
    width: int | None = Field(
        default=None, ge=1, description="columns of a csv without header; null: up to the last read"
    )
    layout: Literal["daily", "snapshot"] = Field(
        description="daily: a folder a date; snapshot: one file or folder with all history"
    )
    files: str = Field(description="glob under the input path; {date} stands for the date")
    columns: dict[str, str | int] = Field(description="our column to the log's name or number")
    constants: dict[str, str] = Field(default_factory=dict, description="our column to a value")
    timestamp: str = Field(description="iso8601, unix_seconds, unix_millis or a Spark pattern")
    time_zone: str = Field(default="UTC", description="of times that don't say their own")
    event_types: dict[str, str] = Field(description="the log's word to ours")
    tolerated_rejects: tuple[str, ...] = Field(
        default=(), description="reasons that ingest.max_reject_share does not count"
    )
    items: Catalogue | None = Field(default=None, description="catalogue with titles")
    users: UserFile | None = Field(default=None, description="file with attributes of users")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="settings that suit this log, below --conf"
    )

    def count_columns(self) -> int:
        """Columns of a csv without header."""
        return self.width or 1 + max(int(at) for at in self.columns.values())

    @model_validator(mode="after")
    def _check(self) -> LogFormat:
        known = {*REQUIRED, *OPTIONAL}
        given = {*self.columns, *self.constants}
        if unknown := sorted(given - known):
            raise ValueError(f"columns: {unknown[0]} is not one of {', '.join(sorted(known))}")
        if missing := [name for name in REQUIRED if name not in given]:
            raise ValueError(f"columns: {missing[0]} is missing")
        numbered = all(isinstance(at, int) and at >= 0 for at in self.columns.values())
        if self.kind == "csv" and not self.header and not numbered:
            raise ValueError("columns: a csv without header needs column numbers from 0")
        if self.kind == "csv" and not self.header and self.width:
            last = max(int(at) for at in self.columns.values())
            if last >= self.width:
                raise ValueError(f"width: {self.width} columns have no number {last}")
        if (self.kind != "csv" or self.header) and not all(
            isinstance(at, str) for at in self.columns.values()
        ):
            raise ValueError("columns: this log names its columns, so numbers are not allowed")
        if self.layout == "daily" and "{date}" not in self.files:
            raise ValueError("files: a daily layout needs {date} in the pattern")
        if self.layout == "daily" and set("{}[]\\") & set(self.files.replace("{date}", "")):
            raise ValueError("files: a daily layout knows *, ? and {date} only")
        for ours in self.event_types.values():
            if ours not in schemas.EVENT_TYPE_CODES:
                allowed = ", ".join(schemas.EVENT_TYPE_CODES)
                raise ValueError(f"event_types: {ours} is not one of {allowed}")
        for reason in self.tolerated_rejects:
            if reason not in REASONS:
                raise ValueError(f"tolerated_rejects: {reason} is not one of {', '.join(REASONS)}")
        if self.time_zone not in zoneinfo.available_timezones():
            raise ValueError(
                f"time_zone: {self.time_zone} is not a time zone, e.g. Europe/Berlin or UTC"
            )
        return self


def load_format(name: str) -> LogFormat:
    """Read a format by its name in ``conf/formats/`` or by its path.

    Raises:
        ConfigError: there is no such format, or its file is wrong.
    """
    folder = conf_dir() / "formats"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"input.format={name} is not known",
            where=str(path),
            do=f"{hint}known: {', '.join(known)}; or give the path of a .yaml file",
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"format file {path} can't be read: {error}") from None
    try:
        return LogFormat.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"format file is wrong: {key + ': ' if key else ''}{message}", where=str(path)
        ) from None
