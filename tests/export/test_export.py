"""Published lists in files, Redis and PostgreSQL: whole, once, and by a pointer that moves last."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from recsys import schemas
from recsys.config import load_settings
from recsys.errors import ExportError
from recsys.export.lists import read_live
from recsys.export.partitions import Patience, _Sender
from recsys.export.redis_store import RedisConnector
from recsys.export.targets import open_store
from recsys.lake.operations import read_night
from recsys.lake.tables import Lake
from tests.export.consumers import (
    KINDS,
    NIGHTS,
    STORES,
    USERS,
    Consumers,
    cut_off,
    documented,
    expected,
    make_live,
)

pytestmark = pytest.mark.spark

FIRST, SECOND = NIGHTS


def test_all_targets_hold_the_live_lists_and_a_second_export_writes_nothing(
    lake: Lake, consumers: Consumers, export: Callable[..., str]
) -> None:
    make_live(lake, FIRST)
    conf = consumers.conf({kind: consumers.target(kind) for kind in KINDS})
    said = export(conf)
    for kind in KINDS:
        assert f"{kind}: written" in said
        assert consumers.served(kind) == expected(FIRST), kind
    assert consumers.read_as_documented(USERS[0]) == [expected(FIRST)[USERS[0]][2]] * 2
    before = {kind: consumers.traces(kind) for kind in KINDS}
    said = export(conf)
    assert {kind: consumers.traces(kind) for kind in KINDS} == before
    assert said.count("there already") == len(KINDS)
    run = read_night(lake, FIRST).runs["export"]
    assert (run.rows_out, run.details["target redis"]) == (len(USERS), "there already")
    assert consumers.password not in f"{said}{run}"


def test_targets_follow_what_is_live_and_half_of_a_version_is_made_whole(
    lake: Lake, consumers: Consumers, export: Callable[..., str]
) -> None:
    conf = consumers.conf({kind: consumers.target(kind) for kind in KINDS})
    for night in NIGHTS:
        make_live(lake, night)
        export(conf)
    version = read_live(lake, raw_user_ids=False).version
    # There is no MLflow; the lists are back all the same.
    nowhere = ("tracking.uri=http://127.0.0.1:1", "tracking.timeout_seconds=1")
    said = export(conf, *nowhere, command="rollback", code=1)
    assert f"live: {len(USERS)} lists of {FIRST}" in said
    assert "`recsys export` puts these into parquet, jsonl, redis, postgres" in said
    said = export(conf)
    assert said.count("put back") == len(KINDS)
    for kind in KINDS:
        assert consumers.served(kind) == expected(FIRST), kind
        assert len(consumers.versions(kind)) == 2, kind

    # What a kill while it was being written would have left of the second night.
    for kind in ("parquet", "jsonl"):
        next((consumers.folder / kind).glob(f"version={version}*/part-*")).unlink()
    name = consumers.folder.name
    consumers.redis().hdel(f"{name}:lists:{version}", *USERS[5:])
    consumers.sql(f"delete from {name} where version = '{version}' and user_id > 'u'")
    make_live(lake, SECOND)
    assert export(conf).count("written") == len(KINDS)
    for kind in KINDS:
        assert consumers.served(kind) == expected(SECOND), kind

    said = export(conf, "export.keep_versions=1", "--target", "redis", "--target", "postgres")
    assert said.count("there already, 1 old removed") == 2
    for kind in KINDS:
        assert len(consumers.versions(kind)) == (1 if kind in STORES else 2), kind
        assert consumers.served(kind) == expected(SECOND), kind


@pytest.mark.parametrize(("kind", "after_bytes"), [("redis", 6_000), ("postgres", 25_000)])
def test_a_connection_that_breaks_halfway_leaves_the_version_before_whole(
    kind: str, after_bytes: int, lake: Lake, consumers: Consumers, export: Callable[..., str]
) -> None:
    make_live(lake, FIRST)
    export(consumers.conf({"shop": consumers.target(kind)}))
    make_live(lake, SECOND)
    with cut_off(consumers.addresses[kind], after_bytes) as (address, mend):
        conf = consumers.conf({"shop": consumers.target(kind, url=address)}, batch_lists=1)
        said = export(conf, code=1)
        assert "does not answer" in said
        assert "recsys export --target shop" in said
        assert consumers.served(kind) == expected(FIRST)
        assert len(consumers.versions(kind)) == 2  # some lists have arrived
        store = open_store(lake, "shop", load_settings(conf).export.targets["shop"])
        mend()
        assert 0 < store.count(read_live(lake, False).version) < len(USERS)
        export(conf)
    assert consumers.served(kind) == expected(SECOND)


def test_a_killed_export_leaves_the_version_before_whole_and_the_next_one_ends_it(
    lake: Lake, consumers: Consumers, export: Callable[..., str]
) -> None:
    make_live(lake, FIRST)
    targets = {"files": consumers.target("parquet"), "crm": consumers.target("postgres")}
    conf = consumers.conf(targets, batch_lists=1)
    export(conf)
    make_live(lake, SECOND)
    table, version = consumers.folder.name, read_live(lake, False).version
    with closing(consumers.connect()) as other:
        # Another transaction has written a list of this version, so the export waits for its end.
        other.run("start transaction")
        other.run(f"insert into {table} values ('{version}', 'u20', '2026-03-06', '8', '[]')")
        command = [sys.executable, "-m", "recsys.cli.main", "export", "--conf", str(conf)]
        process = subprocess.Popen(
            [*command, "--lake", lake.settings.lake.root],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        while not consumers.sql(waits)[0][0]:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        process.kill()
        process.communicate()
        other.run("rollback")
    assert process.returncode == -9
    assert consumers.served("postgres") == expected(FIRST)
    assert consumers.served("parquet") == expected(SECOND)  # the target before was done
    count = f"select count(*) from {table} where version = '{version}'"
    assert 0 < consumers.sql(count)[0][0] < len(USERS)
    said = export(conf)
    assert "files: there already" in said
    assert consumers.served("postgres") == expected(SECOND)


def test_targets_that_fail_say_why_without_a_secret_and_keep_no_other_from_its_lists(
    lake: Lake, consumers: Consumers, export: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_live(lake, FIRST)
    wrong = "s3cret-of-another-server"
    monkeypatch.setenv("WRONG_PASSWORD", wrong)
    monkeypatch.delenv("NO_PASSWORD", raising=False)
    readable = consumers.folder / "readable"
    readable.write_text(wrong)
    readable.chmod(0o644)
    named = {"password_env": None, "password_file": str(readable)}
    nobody = {"redis": "redis://127.0.0.1:1/0", "postgres": "postgresql://127.0.0.1:1/db"}
    targets = {
        **{f"login-{k}": consumers.target(k, password_env="WRONG_PASSWORD") for k in STORES},
        **{f"down-{k}": consumers.target(k, url=nobody[k]) for k in STORES},
        "unset": consumers.target("redis", password_env="NO_PASSWORD", prefix="a"),
        "open": consumers.target("redis", **named, prefix="b"),
        "shut": consumers.target("jsonl", path="/proc/no/such"),
        "files": consumers.target("parquet"),
    }
    said = export(consumers.conf(targets, retries=0), code=1)
    assert consumers.served("parquet") == expected(FIRST)
    for words in (
        "login-redis failed: Redis refuses the login: ",
        "login-postgres failed: PostgreSQL refuses the login: password authentication failed",
        "down-redis failed: Redis does not answer: ",
        "down-postgres failed: PostgreSQL does not answer: ",
        "unset failed: the environment variable NO_PASSWORD is not set",
        "open failed: the file with the store's password can be read by others",
        "shut failed: the files can't be read or written: ",
        "files: written",
        "error: 7 of 8 targets failed: login-redis: Redis refuses the login",
        "recsys export --target login-redis --target login-postgres --target down-redis",
    ):
        assert words in said
    run = read_night(lake, FIRST).runs["export"]
    assert run.status == "failed"
    for secret in (wrong, consumers.password):
        assert secret not in f"{said}{run}"


def test_raw_user_ids_are_an_option_of_a_target(
    lake: Lake, consumers: Consumers, export: Callable[..., str]
) -> None:
    make_live(lake, FIRST)
    targets = {"jsonl": consumers.target("jsonl", raw_user_ids=True)}
    export(consumers.conf({**targets, "redis": consumers.target("redis")}))
    assert consumers.served("jsonl") == expected(FIRST, raw=True)
    assert consumers.served("redis") == expected(FIRST)
    # From now on pseudonyms: other lists, so another version.
    targets["jsonl"]["raw_user_ids"] = False
    export(consumers.conf(targets))
    assert consumers.served("jsonl") == expected(FIRST)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_that_another_export_has_removed_are_not_made_current(
    kind: str, lake: Lake, consumers: Consumers, export: Callable[..., str]
) -> None:
    make_live(lake, FIRST)
    conf = consumers.conf({"shop": consumers.target(kind)})
    export(conf)
    make_live(lake, SECOND)
    lists = read_live(lake, False)
    settings = load_settings(conf, [f"lake.root={lake.settings.lake.root}"])
    store = open_store(Lake(lake.spark, settings), "shop", settings.export.targets["shop"])
    store.write(lists)
    assert store.count(lists.version) == len(USERS)
    store.remove(lists.version)
    with pytest.raises(ExportError, match=f"0 of {len(USERS)} lists are left"):
        store.make_current(lists)
    assert consumers.served(kind) == expected(FIRST)


def test_a_role_without_the_right_to_create_uses_tables_that_are_there(
    lake: Lake, consumers: Consumers, export: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_live(lake, FIRST)
    table = consumers.folder.name
    consumers.sql("create role writer login password 'of a writer'")
    monkeypatch.setenv("WRITER", "of a writer")
    target = consumers.target("postgres", user="writer", password_env="WRITER")
    conf = consumers.conf({"crm": target})
    assert "permission denied" in export(conf, code=1)
    for statement in documented("sql")[1].replace("top_n", table).split(";")[:-1]:
        consumers.sql(statement)
    for grant in (
        f"select, insert, update, delete on {table}",
        f"select, insert, update, delete on {table}_versions",
        f"select on {table}_current",
    ):
        consumers.sql(f"grant {grant} to writer")
    make_live(lake, SECOND)
    export(consumers.conf({"crm": target}))
    assert consumers.served("postgres") == expected(SECOND)


@pytest.mark.parametrize("kind", STORES)
def test_a_server_is_known_by_its_certificate(
    kind: str, lake: Lake, servers: Consumers, consumers: Consumers
) -> None:
    url, ca = servers.addresses[f"{kind}-tls"], str(servers.folder / "services/server.crt")

    def current(**changed: Any) -> str | None:
        target = consumers.target(kind, **{"url": url, **changed})
        conf = consumers.conf({"shop": target}, retries=0)
        settings = load_settings(conf, [f"lake.root={lake.settings.lake.root}"])
        lake_with = Lake(lake.spark, settings)
        return open_store(lake_with, "shop", settings.export.targets["shop"]).current()

    assert current(ca_file=ca) is None  # nothing was exported there
    with pytest.raises(ExportError, match="certificate is not accepted"):
        current()
    if kind == "postgres":
        assert current(url=f"{url}?sslmode=require") is None
    with pytest.raises(ExportError, match="certificate is not valid for 'localhost'"):
        current(ca_file=ca, url=url.replace("127.0.0.1", "localhost"))


def test_spark_shows_no_password(lake: Lake) -> None:
    connector = RedisConnector("redis://h/0", None, "a-secret", None, 1, "key")
    assert "a-secret" not in repr(connector)
    make_live(lake, FIRST)
    rows = read_live(lake, False).rows.select(schemas.USER_ID)
    sent = rows.mapInArrow(_Sender(connector, Patience(0), 1), "sent bigint")
    plan = sent._jdf.queryExecution().toString()
    assert "_Sender" in plan
    assert "a-secret" not in plan


def test_a_night_has_an_export_where_the_settings_name_a_target() -> None:
    from recsys.steps.night import ALL_STEPS

    def names(*overrides: str) -> list[str]:
        settings = load_settings(None, overrides)
        return [step.name for step in ALL_STEPS if step.wanted(settings)]

    target = "export.targets.shop={kind: parquet, path: /x}"
    assert names(target) == [*names(), "export"]
