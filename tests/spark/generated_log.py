"""Reading a generated log as a stranger would: plain Python, no code of the generator."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from recsys import schemas
from recsys.config import Generate, load_settings

END = date(2026, 3, 5)
SMALL: dict[str, Any] = {
    "generate.events": 6000,
    "generate.users": 400,
    "generate.items": 240,
    "generate.days": 5,
    "generate.categories": 8,
    "generate.taste_days": 2,
    "generate.malformed_rate": 0.01,
    "generate.unknown_type_rate": 0.01,
    "generate.bad_rating_rate": 0.01,
    "generate.clock_skew_rate": 0.01,
    "generate.exact_duplicate_rate": 0.03,
    "generate.near_duplicate_rate": 0.03,
    "generate.late_rate": 0.05,
    "generate.bot_user_rate": 0.01,
}


GOOD = ("on_time", "late")


def small(**changes: Any) -> Generate:
    given = {**SMALL, **{f"generate.{name}": value for name, value in changes.items()}}
    return load_settings(None, [f"{key}={value}" for key, value in given.items()]).generate


def tiny(**changes: Any) -> Generate:
    return small(events=100, days=2, **changes)


def digest(folder: Path) -> dict[str, str]:
    """Name to content hash of every file, hidden ones too."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@dataclass(frozen=True)
class Line:
    """One line as found: its folder's date and what it says (``None`` for broken JSON)."""

    folder: date
    text: str
    said: dict[str, Any] | None

    @property
    def ts(self) -> datetime:
        assert self.said is not None
        return datetime.fromisoformat(self.said["ts"])


def read_lines(folder: Path) -> Iterator[Line]:
    for path in sorted(folder.glob("dt=*/part-*.json.gz")):
        day = date.fromisoformat(path.parent.name.removeprefix("dt="))
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for text in lines:
                try:
                    said = json.loads(text)
                except ValueError:
                    said = None
                yield Line(day, text, said)


def kind_of(line: Line) -> str:
    """What ingest should find in a line, duplicates aside."""
    if line.said is None:
        return "malformed"
    if line.said["type"] not in schemas.EVENT_TYPE_CODES:
        return "unknown_type"
    if line.said.get("rating", 1) not in range(1, 6):
        return "bad_rating"
    days = (line.folder - line.ts.date()).days
    return "clock_skew" if days < 0 else "late" if days > 0 else "on_time"


def count_near_duplicates(lines: list[Line]) -> int:
    """Same user, item and type again after more than 0 and at most 2 seconds."""
    moments: dict[tuple[str, str, str], set[datetime]] = {}
    for line in lines:
        if line.said and kind_of(line) in GOOD:
            key = (line.said["user"], line.said["item"], line.said["type"])
            moments.setdefault(key, set()).add(line.ts)
    ordered = [sorted(times) for times in moments.values()]
    pairs = [pair for times in ordered for pair in pairwise(times)]
    return sum(later - earlier <= timedelta(seconds=2) for earlier, later in pairs)


def read_items(folder: Path) -> dict[str, dict[str, str]]:
    header, *rows = (folder / "items.tsv").read_text(encoding="utf-8").splitlines()
    named = [dict(zip(header.split("\t"), row.split("\t"), strict=True)) for row in rows]
    return {row["item"]: row for row in named}
