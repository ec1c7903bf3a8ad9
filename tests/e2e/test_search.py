"""`recsys search` and `recsys train --explain` as users type them, after a night's ETL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from recsys.cli.main import main
from recsys.config import load_settings
from tests.e2e.shell import Shell
from tests.spark.tiny_logs import DAY, event, write_json

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SMALL = [
    "gold.sequence_length=8", "gold.length_buckets=[8]", "gold.min_row_groups=1",
    "gold.validation_share=0.3", "train.launcher=single", "train.ranks=1", "train.max_epochs=3",
    "train.per_rank_batch_size=16", "model.dims=16", "model.blocks=1",
]  # fmt: skip
EARLIER = str(DAY.replace(day=DAY.day - 1))  # what is on the night's day is held out


def write_log(shell: Shell) -> None:
    log = [
        event(f"u{user}", f"i{(user + step) % 12}", f"{EARLIER}T{8 + step:02d}:{user:02d}:00Z")
        for user in range(40)
        for step in range(8)
    ]
    write_json(shell.logs / "log.json", log)


def build_gold(shell: Shell) -> None:
    for command in ("ingest", "build-silver", "build-gold"):
        assert shell.call(command, *SMALL)[0] == 0


def test_a_training_is_explained_before_it_begins(
    spark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, capsys)
    write_log(shell)
    build_gold(shell)
    two = ["gold.min_row_groups=2", "train.launcher=horovodrun", "train.ranks=2"]
    chosen = [*SMALL, *two, "train.exchange.compression=int8"]
    shell.call("build-gold", *chosen)
    with pytest.raises(SystemExit) as caught:
        main(shell.arguments("train", "--explain", *chosen))
    said = capsys.readouterr()
    assert not caught.value.code, said.err
    lines = dict(re.findall(r"^([a-z ]+): +(.+)$", said.out, re.M))
    assert lines["strategy"] == "2 ranks (horovodrun), gradients as int8 each step"
    assert re.match(r"[\d,]+ MiB at most, of which .* are 7 × 0\.0 MiB", lines["memory a rank"])
    assert float(lines["sent a step"].split()[0]) > 0
    assert int(lines["steps an epoch"]) > 0
    assert re.match(r"[\d.]+ \(compute [\d.]+, exchange [\d.]+\)", lines["seconds an epoch"])
    # Nothing was trained: evaluation still asks for it.
    assert "train has not succeeded" in shell.fail("evaluate", *chosen)


def test_a_search_goes_on_and_its_best_settings_are_a_conf_file(
    spark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, capsys)
    write_log(shell)
    space, best = tmp_path / "space.yaml", tmp_path / "best.yaml"
    space.write_text("train.learning_rate: [0.02, 0.03]\nmodel.heads: [2, 3]\n")

    def search(trials: int) -> tuple[int, str, str]:
        given = {"--date": DAY, "--lake": shell.lake, "--space": space, "--out": best}
        options = [str(text) for pair in given.items() for text in pair]
        with pytest.raises(SystemExit) as caught:
            main(["search", *options, "--trials", str(trials), *SMALL])
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    code, out, err = search(2)
    assert code == 1
    assert f"error: build_gold has not succeeded for {DAY}" in err
    assert f"recsys build-gold --date {DAY}" in err

    build_gold(shell)
    outputs = []
    for trials in (2, 6):
        code, out, err = search(trials)
        assert code == 0, err
        outputs.append(out)
    begun = [re.findall(r"^  trial (\d+) +train", out, re.M) for out in outputs]
    assert begun == [["0", "1"], ["2", "3", "4", "5"]]
    assert "model.heads=3 must divide model.dims=16" in "".join(outputs)

    number = re.search(r"^trial (\d+) was best:$", outputs[1], re.M)
    assert number is not None
    wanted = re.search(rf"^  trial {number[1]} +train\.learning_rate=(\S+)", "".join(outputs), re.M)
    assert wanted is not None
    found = load_settings(best)
    assert found.train.learning_rate == float(wanted[1])
    assert (found.model.heads, found.model.dims, found.train.max_epochs) == (2, 16, 3)
    (kept,) = (shell.lake / "_search").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["lock", "search.db", "search.png"]
