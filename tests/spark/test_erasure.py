"""Users that asked to be forgotten are in no table, file, list or log; the next night goes on."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recsys import schemas
from recsys.bundle import load_bundle
from recsys.errors import InputError, LakeError
from recsys.lake.erasure import check_quiet, erase_rows, find_users
from recsys.lake.local import local_frame
from recsys.lake.operations import read_night
from recsys.lake.proof import prove, purge
from recsys.lake.publish import Published, live, live_lists, publish
from recsys.lake.tables import Lake
from recsys.steps.training import TRAIN
from tests.e2e.small_night import forget_tables
from tests.spark.etl_nights import DAILY, DAYS, SMALL, STEPS, Etl, content
from tests.spark.tiny_logs import event

pytestmark = [pytest.mark.spark, pytest.mark.long]

GONE = ("ann", "cid")
WITH_PSEUDONYMS = [text for text in SMALL if "pseudonyms" not in text]


def records(day: int, users: tuple[str, ...]) -> list[Any]:
    found = []
    for n in range(24):
        user, ts = users[n % len(users)], f"{DAYS[day]}T{n:02d}:00:0{day}Z"
        kind, more = ("rating", {"rating": 3}) if n % 5 == 0 else ("view", {})
        found.append(event(user, "abcdef"[(n * 5 + day) % 6], ts, kind, **more))
    # A record of nobody that says a name, one of another user whose item is called alike.
    return [*found, '{"user": "ann", "item"', event("bob", "ann-item", f"{DAYS[day]}T23:30:00Z")]


def publish_lists(lake: Lake, day: int) -> None:
    users = [row[0] for row in lake.read(schemas.SILVER_USERS).select("user_id").collect()]
    rows = [(DAYS[day], user, "1", [(1, "a", 0.5, "model")]) for user in users]
    frame = local_frame(
        lake.spark,
        [(*row[:3], [dict(zip(("rank", "item_id", "score", "reason"), e, strict=True))
                     for e in row[3]]) for row in rows],
        schemas.GOLD_TOP_N.ddl,
    )  # fmt: skip
    commit = lake.replace(schemas.GOLD_TOP_N, frame, f"run_date = '{DAYS[day]}'")
    versions = (lake.version(schemas.SILVER_USERS), lake.version(schemas.SILVER_ITEMS))
    publish(lake, Published(DAYS[day], commit.version, "m", "1", *versions, len(rows)))


def test_erased_users_are_nowhere_and_the_next_night_goes_on(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    everyone = ("ann", "bob", "cid", "dan")
    etl = Etl(make_lake(f"lake.root={tmp_path}/lake", *WITH_PSEUDONYMS), tmp_path / "logs")
    etl.write({DAYS[day]: records(day, everyone) for day in range(3)})
    lake = etl.lake
    for day in range(2):
        etl.run(DAYS[day])
        publish_lists(lake, day)
    highest = lake.read(schemas.SILVER_USERS).agg({"user_idx": "max"}).collect()[0][0]
    users = find_users(lake, [*GONE, "never seen"])
    # A failed check has given one of them as an example.
    told = lake.read(schemas.OPS_CHECKS).limit(1).drop("message")
    example = told.selectExpr("*", f"'1 key twice: user_id {users.pseudonyms[0]}' as message")
    lake.append(schemas.OPS_CHECKS, example)
    assert len(users.indices) == len(GONE)
    with pytest.raises(LakeError, match="still holds users"):
        prove(lake, DAILY, users)

    deleted = erase_rows(lake, DAILY, users, lambda _: None)
    assert deleted["silver/users"] == deleted["silver/user_vault"] == len(GONE)
    # Of each night: twelve events of the two, and the broken line.
    assert deleted["bronze/events"] == 2 * (12 + 1)
    assert all(deleted[name] for name in ("silver/events", "gold/sequences", "gold/top_n"))
    purge(lake, lambda _: None)
    files, entries = prove(lake, DAILY, users)
    assert files > 0
    assert entries > 0

    messages = [row[0] for row in lake.read(schemas.OPS_CHECKS).select("message").collect()]
    assert "1 key twice: user_id (erased)" in messages

    # What is live can be read, and is for the others.
    assert live(lake).run_date == DAYS[1]
    assert live_lists(lake).count() == 2
    # The next night starts from the last one; without the two it is as if they had never been.
    last = [record for record in records(2, ("bob", "dan", "new")) if isinstance(record, dict)]
    etl.write({DAYS[2]: last})
    said = etl.run(DAYS[2])
    assert any(f"on {DAYS[1]}'s" in line for line in said)
    indices = dict(lake.read(schemas.SILVER_USERS).select("user_id", "user_idx").collect())
    assert max(indices.values()) == highest + 1
    prove(lake, DAILY, users)

    other = Etl(make_lake(f"lake.root={tmp_path}/other", *WITH_PSEUDONYMS), tmp_path / "others")
    for day in range(2):
        said_by = [record for record in records(day, everyone) if isinstance(record, dict)]
        other.write({DAYS[day]: [record for record in said_by if record["user"] not in GONE]})
    other.write({DAYS[2]: last})
    other.run(DAYS[2])
    wanted, found = content(other.lake), content(lake)
    # Item statistics name nobody, and keep their counts.
    differ = {name for name in wanted if wanted[name] != found[name]}
    assert differ == {schemas.GOLD_ITEM_STATS.name}


def test_no_user_and_a_running_night_are_refused(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    etl = Etl(make_lake(f"lake.root={tmp_path}/lake", *WITH_PSEUDONYMS), tmp_path / "logs")
    with pytest.raises(InputError, match="no user to erase"):
        find_users(etl.lake, ["", "  "])
    check_quiet(etl.lake)
    row = ("id", DAYS[0], "ingest", "succeeded", "f", 1, 1, {}, {}, {}, 1.0, "")
    moment = datetime.now(UTC) - timedelta(minutes=5)
    frame = local_frame(etl.lake.spark, [(*row, moment)], schemas.OPS_RUNS.ddl)
    etl.lake.append(schemas.OPS_RUNS, frame)
    with pytest.raises(LakeError, match="has not ended"):
        check_quiet(etl.lake)


def check_report(said: str) -> None:
    """What was erased and proved, and what is left to do; no id of a user."""
    first, *lines = said.splitlines()
    assert first == "erasing 3 users, 2 of them known"
    for name, rows in (("bronze/events", 26), ("silver/user_vault", 2), ("gold/top_n", 0)):
        assert f"  {name:<24} {rows} rows" in lines
    proof, copies, logs = lines[-3:]
    assert re.fullmatch(
        r"proof: [1-9][\d,]* data files and [1-9][\d,]* log entries read, none holds an id; 2 "
        r"models with a row a user read, none knows one of them; 2 indices will never be given "
        r"again",
        proof,
    )
    assert "`recsys export export.keep_versions=1` replaces them in shop, crm and" in copies
    assert logs.startswith("The raw logs that the lake was made from are not part of it")
    assert not re.search(r"\b(ann|cid|never seen)\b", said)


def test_the_command_erases_users_from_models_too(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    """A model with a row a user, trained by a night and kept by MLflow, then the whole command."""
    settings = [
        *WITH_PSEUDONYMS, "model.kind=collaborative_network", "model.dims=8",
        "train.launcher=single", "train.ranks=1", "train.max_epochs=1",
        "gold.validation_share=0.4",
    ]  # fmt: skip
    etl = Etl(make_lake(f"lake.root={tmp_path}/lake", *settings), tmp_path / "logs")
    etl.write({DAYS[day]: records(day, ("ann", "bob", "cid", "dan")) for day in range(2)})
    etl.run(DAYS[0])
    etl.run(DAYS[1], steps=(*STEPS, TRAIN))
    train = read_night(etl.lake, DAYS[1]).runs["train"]
    assert train.details["checks red"] == "0"
    assert (
        etl.lake.version(schemas.GOLD_TRAINING_EXAMPLES)
        == (train.tables_written[schemas.GOLD_TRAINING_EXAMPLES.name])
    )
    bundles = [file.parent for file in (tmp_path / "lake").rglob("bundle.json")]
    assert len(bundles) == 2  # beside the checkpoints, and MLflow's
    users = find_users(etl.lake, GONE)
    everyone = torch.tensor([row[0] for row in etl.lake.read(schemas.SILVER_USERS).select(
        "user_idx").collect()])  # fmt: skip
    for bundle in bundles:
        assert load_bundle(bundle)[0].knows({"user_idx": everyone}).all()

    log_format = tmp_path / "daily.yaml"
    log_format.write_text(yaml.safe_dump(DAILY.model_dump(mode="json")), encoding="utf-8")
    options = ["--lake", f"{tmp_path}/lake", "--format", str(log_format), *settings]
    # Its night was not published, so it seems to be under way.
    command = [sys.executable, "-m", "recsys.cli.main", "erase", *GONE, "never seen", "--force"]
    targets = [f"export.targets.{name}={{kind: jsonl, path: /{name}}}" for name in ("shop", "crm")]
    done = subprocess.run([*command, *options, *targets], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    forget_tables(etl.lake.spark)
    check_report(done.stdout)
    for bundle in bundles:
        model, _ = load_bundle(bundle)
        left = model.knows({"user_idx": everyone})
        assert left.tolist() == [int(user) not in users.indices for user in everyone]
        assert not model.get_parameter("user_embedding.weight")[list(users.indices)].any()
    examples = etl.lake.read(schemas.GOLD_TRAINING_EXAMPLES)
    assert not examples.where(examples["user_idx"].isin(*users.indices)).count()
