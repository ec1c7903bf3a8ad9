"""Settings: strict, layered, each default written once, errors that say where and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from recsys.cli.look import config_reference
from recsys.config import Settings, conf_dir, describe_settings, load_settings, local_lake_path
from recsys.config.loading import SPACE_FILE
from recsys.errors import ConfigError
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.core


def keys_of_models(kind: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in kind.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += keys_of_models(section, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def keys_of_yaml(tree: Mapping[str, Any], known: set[str], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        leaf = key in known or not isinstance(value, dict)
        keys += [key] if leaf else keys_of_yaml(value, known, f"{key}.")
    return keys


CONF_FILES = sorted(p.name for p in conf_dir().glob("*.yaml") if p.name != SPACE_FILE)


def base() -> dict[str, Any]:
    return dict(yaml.safe_load((conf_dir() / "base.yaml").read_text(encoding="utf-8")))


def fail(*overrides: str, conf: Path | None = None, suited: Any = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_settings(conf, overrides, suited)
    return caught.value


def test_base_yaml_has_every_field_of_the_models_and_nothing_else() -> None:
    models = keys_of_models()
    assert sorted(keys_of_yaml(base(), set(models))) == sorted(models)


def test_models_hold_no_default_of_their_own() -> None:
    def check(kind: type[BaseModel]) -> None:
        for name, field in kind.model_fields.items():
            assert field.is_required(), f"{kind.__name__}.{name} has a second default"
            section = field.annotation
            if isinstance(section, type) and issubclass(section, BaseModel):
                check(section)

    check(Settings)


def test_every_field_has_a_meaning() -> None:
    assert [key for key, _, _, meaning in describe_settings() if not meaning] == []


FIRST = "train.pretraining.enabled=true"


@pytest.mark.parametrize("name", CONF_FILES)
def test_shipped_conf_files_load(name: str) -> None:
    assert load_settings(name).score.n >= 1


def test_defaults_come_from_base_and_differences_from_local() -> None:
    settings = load_settings(None)
    assert settings.train.max_epochs == base()["train"]["max_epochs"]
    assert settings.spark.master == "local[2]"
    assert load_settings("base.yaml").spark.master is None


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.max_epoch=3", "train.max_epochs"),
        ("trian.ranks=1", "train"),
        ("evaluate.als.ranks=3", "evaluate.als.rank"),
        ("lake.rot=/x", "lake.root"),
    ],
)
def test_unknown_key_names_the_nearest(override: str, nearest: str) -> None:
    error = fail(override)
    key = override.partition("=")[0]
    assert error.what.startswith("unknown setting ")
    assert key.startswith(error.what.removeprefix("unknown setting "))
    assert error.do == f"did you mean {nearest}?"
    assert error.where == "command line"
    assert error.exit_code == 2


def test_unknown_key_without_a_near_one_lists_what_is_known() -> None:
    error = fail("score.zzzzzzzzzzzz=1")
    assert error.do == (
        "known: score.n, score.method, score.device, score.recall, score.partitions, "
        "score.partition_mb, score.commits, score.writer, score.full_every_days"
    )


@pytest.mark.parametrize(
    ("override", "what", "meaning"),
    [
        ("score.n=0", "score.n=0 is not allowed: input should be greater than or equal to 1", "items"),  # noqa: E501
        ("train.launcher=mpi", "train.launcher='mpi' is not allowed: input should be 'horovodrun', "
         "'spark' or 'single'", "single (one process)"),
        ("spark.driver_memory=2", "spark.driver_memory=2 is not allowed: ", "driver heap"),
        ("ingest.max_reject_share=5%", "ingest.max_reject_share='5%' is not allowed: ", "share of"),
        ("train.seed=1.5", "train.seed=1.5 is not allowed: ", "same seed"),
        ("gold.length_buckets=[8, x]", "gold.length_buckets.1='x' is not allowed: ", "padded"),
        ("spark.extra={spark.a: [1]}", "spark.extra.spark.a=[1] is not allowed: ", "Spark setting"),
        ("evaluate.als.rank=0", "evaluate.als.rank=0 is not allowed: ", "latent factors"),
        ("lake.s3_endpoint=minio:9000", "lake.s3_endpoint='minio:9000' is not allowed: ", "S3-"),
    ],
)  # fmt: skip
def test_bad_value_names_key_value_what_is_allowed_meaning_and_source(
    override: str, what: str, meaning: str
) -> None:
    error = fail(override)
    assert error.what.startswith(what)
    assert meaning in error.do
    assert error.where == "command line"


def test_bad_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    conf = tmp_path / "mine.yaml"
    conf.write_text("score:\n  n: many\n")
    error = fail(conf=conf)
    assert error.what.startswith("score.n='many' is not allowed")
    assert error.where == str(conf)


def test_bad_value_names_the_layer_that_won(tmp_path: Path) -> None:
    conf = tmp_path / "mine.yaml"
    conf.write_text("score:\n  n: 5\n")
    assert fail("score.n=-1", conf=conf).where == "command line"
    conf.write_text("score:\n  n: -5\n")
    assert load_settings(conf, ["score.n=7"]).score.n == 7


@pytest.mark.parametrize(
    ("overrides", "relation"),
    [
        (["gold.sequence_length=40"], "gold.length_buckets=[8, 16, 32, 50] must ascend from 1 "
         "or more and end with gold.sequence_length=40"),
        (["gold.length_buckets=[16, 8, 50]"], "gold.length_buckets=[16, 8, 50] must ascend"),
        (["gold.length_buckets=[8, 8, 50]"], "gold.length_buckets=[8, 8, 50] must ascend"),
        (["gold.length_buckets=[0, 50]"], "gold.length_buckets"),
        (["model.heads=3", "model.dims=64"], "model.heads=3 must divide model.dims=64"),
        (["model.positions=rotary", "model.dims=9", "model.heads=3"],
         "model.positions=rotary turns pairs of dims: model.dims=9 over model.heads=3"),
        (["train.min_ranks=1", "train.launcher=spark"], "train.min_ranks=1 (elastic) needs "
         "train.launcher=horovodrun, not spark"),
        (["train.min_ranks=3"], "train.ranks=2, with which an elastic training begins"),
        (["train.min_ranks=1", "train.max_ranks=1"], "train.max_ranks=1"),
        (["train.min_ranks=1", "train.exchange.cycle_ms=2"], "train.exchange.cycle_ms can't be set "
         "for elastic training"),
        (["train.max_ranks=4"], "train.max_ranks is for elastic training: set train.min_ranks"),
        (["train.discovery_script=hosts.sh"], "train.discovery_script is for elastic training"),
        (["train.launcher=single", "train.ranks=2"], "train.launcher=single needs train.ranks=1, "
         "not 2"),
        (["generate.users=10", "generate.categories=20"], "generate.users"),
        ([FIRST, "train.task=pretraining"], "set train.task to next_item, purchase, click, rating"),
        ([FIRST, "train.start_from=champion"], "set train.start_from to null, not champion"),
        ([FIRST, "model.kind=two_tower"], f"{FIRST} needs model.kind=transformer, not two_tower"),
        ([FIRST, "train.parallel.pipeline_stages=2"],
         f"{FIRST}: train.parallel.pipeline_stages=2 can't go with train.task=pretraining"),
    ],
)  # fmt: skip
def test_rules_between_fields_name_both_sides(overrides: list[str], relation: str) -> None:
    assert relation in fail(*overrides).what


def test_overrides_take_yaml_values_and_the_last_wins() -> None:
    settings = load_settings(
        None,
        ["lake.root=/a/b", "train.learning_rate=1e-3", "privacy.pseudonyms=off", "input.path=null",
         "gold.length_buckets=[4, 50]", "score.n=3", "score.n=4",
         'spark.extra={spark.ui.port: "1"}'],
    )  # fmt: skip
    assert settings.lake.root == "/a/b"
    assert settings.train.learning_rate == 0.001
    assert settings.privacy.pseudonyms is False
    assert settings.input.path is None
    assert settings.gold.length_buckets == (4, 50)
    assert settings.score.n == 4
    assert settings.spark.extra == {"spark.ui.port": "1"}


@pytest.mark.parametrize("text", ["train.ranks", "ranks=2", "=3"])
def test_override_of_another_form_is_refused(text: str) -> None:
    assert "is not of the form section.key=value" in fail(text).what


def test_value_in_place_of_a_section_is_refused() -> None:
    assert fail("train=3", "train.ranks=1").what.startswith("override 'train=3'")
    assert fail("evaluate.als=3").what == "evaluate.als is a section, not a value: 3"


def test_settings_of_the_format_lie_above_base_and_below_conf(tmp_path: Path) -> None:
    suited = {"gold": {"holdout_days": 9, "min_row_groups": 3}, "score": {"n": 11}}
    conf = tmp_path / "mine.yaml"
    conf.write_text("gold: {holdout_days: 8}\n")
    settings = load_settings(conf, ["score.n=12"], suited)
    assert settings.gold.holdout_days == 8
    assert settings.gold.min_row_groups == 3
    assert settings.score.n == 12
    error = fail(suited={"gold": {"holdout_day": 1}})
    assert error.where == "settings of the log's format"
    assert error.do == "did you mean gold.holdout_days?"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().score.n = 3  # type: ignore[misc]


def test_missing_conf_file_lists_the_shipped_ones(tmp_path: Path) -> None:
    error = fail(conf=tmp_path / "no.yaml")
    assert error.what == f"config file {tmp_path / 'no.yaml'} does not exist"
    assert (
        error.do == "shipped ones: base.yaml, benchmark.yaml, cluster.yaml, demo.yaml, local.yaml"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [("a: [", "can't be read"), ("- 1", "must hold sections, not a list"),
     ("train: 3\n", "train is a section")],
)  # fmt: skip
def test_conf_file_that_is_no_mapping_is_refused(content: str, said: str, tmp_path: Path) -> None:
    conf = tmp_path / "bad.yaml"
    conf.write_text(content)
    assert said in fail(conf=conf).what


def test_conf_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    conf = tmp_path / "bad.yaml"
    conf.write_bytes(b"\xff\xfe\x00")
    assert str(conf) in fail(conf=conf).what


def test_empty_conf_file_changes_nothing(tmp_path: Path) -> None:
    conf = tmp_path / "empty.yaml"
    conf.write_text("# nothing\n")
    assert load_settings(conf) == load_settings("base.yaml")


def test_reference_has_a_row_for_every_key_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \|.*\| `(.*)` \|", config_reference(), re.M)
    defaults = {key: default for key, _, default, _ in describe_settings()}
    assert [key for key, _ in rows] == keys_of_models()
    assert {key: json.loads(default) for key, default in rows} == defaults


def test_docs_hold_the_reference() -> None:
    page = REPOSITORY / "docs/configuration.md"
    assert config_reference() in page.read_text(encoding="utf-8"), "recsys config --reference"


@pytest.mark.parametrize(
    ("root", "path"),
    [("/a/b", "/a/b"), ("file:///a/b", "/a/b"), ("file:/a/b", "/a/b"), ("hdfs://h/a", None),
     ("s3a://bucket/a", None)],
)  # fmt: skip
def test_local_lake_path(root: str, path: str | None) -> None:
    assert local_lake_path(root) == (Path(path) if path else None)
