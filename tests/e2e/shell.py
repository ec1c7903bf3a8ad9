"""The command `recsys` on small logs, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys import schemas
from recsys.cli.main import main
from tests.spark.tiny_logs import DAY, JSON, NUMBERED, event

GOOD = [event(f"u{n % 5}", f"i{n % 7}", f"10:{n:02d}:00") for n in range(40)]
DAILY = {**JSON, "layout": "daily", "files": "dt={date}/*.json*"}
CSV = {**JSON, "kind": "csv", "header": True, "files": "*.csv"}
HEADERLESS = {**CSV, "header": False, "columns": NUMBERED}
LINE = f"u,a,view,{DAY}T10:00:00Z,,\n"


class Shell:
    """The command `recsys` in this process (and its Spark session), in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.lake, self.logs, self.capsys = folder / "lake", folder / "logs", capsys
        self.format = folder / "format.yaml"
        self.logs.mkdir()
        self.use(JSON)

    def use(self, log: dict[str, Any]) -> None:
        self.format.write_text(yaml.safe_dump(log))

    def arguments(self, command: str, *more: str, **changed: str) -> list[str]:
        given = {"--date": str(DAY), "--lake": str(self.lake), "--input": str(self.logs),
                 "--format": str(self.format), **changed}  # fmt: skip
        return [command, *(text for pair in given.items() for text in pair), *more]

    def call(self, command: str, *more: str, **changed: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(self.arguments(command, *more, **changed))
        said = self.capsys.readouterr()
        assert "Traceback" not in said.err
        assert "\tat " not in said.err
        return int(caught.value.code or 0), said.err

    def fail(self, command: str, *more: str, **changed: str) -> str:
        code, err = self.call(command, *more, **changed)
        assert code == 1, err
        assert err.startswith("error: ")
        assert "\n  where: " in err
        assert "\n  do:    " in err
        assert not (self.lake / schemas.OPS_PUBLISHED.name).exists()
        return err
