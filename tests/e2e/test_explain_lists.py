"""`recsys score --explain` as users type it, before a night's lists are made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recsys import schemas
from recsys.cli.main import main
from tests.e2e.shell import Shell
from tests.e2e.test_search import SMALL, build_gold, write_log

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_a_scoring_is_explained_before_it_begins(
    spark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, capsys)
    write_log(shell)
    build_gold(shell)
    assert "evaluate has not succeeded" in shell.fail("score", "--explain", *SMALL)
    few = [*SMALL, "train.max_epochs=1", "evaluate.als.iterations=1", "score.partitions=3"]
    for step in ("train", "evaluate"):
        code, err = shell.call(step, *few)
        assert code == 0, err

    def explain(command: str, *more: str) -> dict[str, str]:
        with pytest.raises(SystemExit) as caught:
            main(shell.arguments(command, "--explain", *few, *more))
        said = capsys.readouterr()
        assert not caught.value.code, said.err
        return dict(re.findall(r"^([a-z_.=]+): +(.+)$", said.out, re.M))

    lines = explain("score", "score.recall=0.8", "score.commits=2", "score.n=5")
    assert lines["users"] == "40, in 3 tasks and 2 commits"
    assert lines["candidates"] == "12 × 16 dims"
    assert re.match(r"scoring with 12 items × 16 dims needs .* GiB for each", lines["memory"])
    exact, other = lines["exact"], lines["approximate"]
    assert re.match(r"480 pairs, 0 s on \d+ cores \(forecast: [\d,]+ users/s a core", exact)
    assert re.match(r"0 s to build, 0 s to search on \d+ cores, 0\.0 MiB \(forecast\);", other)
    assert re.search(r"recall [01]\.\d+ \(at least 0\.[89]\d+\) with \d+ clusters", other)
    assert other.endswith(" in a trial on 12 candidates and 40 users")
    assert lines["score.method=exact"] == "exact lists: score.method says so"
    assert "0 s (forecast): no index is worth its trouble" in lines["score.method=auto"]
    # The job's own name, and what can't be measured.
    lines = explain("score-users", "score.method=approximate")
    few_users = (
        "exact lists: 40 users whom the model knows are too few to measure a recall of 0.99 on "
        "(381 are needed)"
    )
    assert lines["score.method=approximate"] == lines["score.method=auto"] == few_users
    # No list was made.
    assert not (shell.lake / schemas.GOLD_TOP_N.name).exists()
