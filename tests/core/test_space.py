"""Spaces of a search: what a file may hold, and what is said where it can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recsys.config import Choice, Range, conf_with, load_settings, read_space, with_values
from recsys.errors import ConfigError

pytestmark = pytest.mark.core


def write(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_lists_and_ranges(tmp_path: Path) -> None:
    text = """
        train.learning_rate: {low: 0.0003, high: 0.01, log: true}
        train.recency_half_life_days: {low: 1, high: 30}
        train.target_horizon: {low: 1, high: 5, step: 2}
        train.per_rank_batch_events: [null, 2048]
        model.positions: [learned, rotary]
        train.pretraining.masked_share: {low: 0.1, high: 0.5}
    """
    assert read_space(write(tmp_path, text), load_settings()) == {
        "train.learning_rate": Range(0.0003, 0.01, True, None, False),
        "train.recency_half_life_days": Range(1, 30, False, None, False),
        "train.target_horizon": Range(1, 5, False, 2, True),
        "train.per_rank_batch_events": Choice((None, 2048)),
        "model.positions": Choice(("learned", "rotary")),
        "train.pretraining.masked_share": Range(0.1, 0.5, False, None, False),
    }


def test_the_shipped_space_is_one() -> None:
    assert "train.learning_rate" in read_space("search.yaml", load_settings())


@pytest.mark.parametrize(
    ("text", "what", "do"),
    [
        ("", "is empty", "list of values"),
        ("- model.dims", "must hold sections", ""),
        ("model.dim: [8]", "unknown setting model.dim", "did you mean model.dims?"),
        ("modle.dims: [8]", "unknown setting modle", "did you mean model?"),
        ("model: {dims: [8]}", "model is a section", ""),
        ("score.n: [5]", "score.n can't be searched", "model and train"),
        ("train.seed: [1, 2]", "train.seed can't be searched", "train.seed=..."),
        ("train.exclude_own_items: [true, false]", "can't be compared", ""),
        ("model.dims: 8", "model.dims=8 is no space", "list of values"),
        ("model.dims: []", "model.dims=[] is no space", "list of values"),
        ("model.positions: {low: 1, high: 2}", "is no space", "list of values"),
        ("model.dropout: {low: 0.1}", "is no space", "list of values"),
        ("model.dropout: {low: 0.1, high: 0.2, lgo: true}", "lgo is not known", "log"),
        ("model.dropout: {low: 0.2, high: 0.1}", "low=0.2 is not below high=0.1", ""),
        ("model.dropout: {low: 0.0, high: 0.1, log: true}", "log needs a low above 0", ""),
        ("model.dropout: {low: 0.1, high: 0.2, log: 1}", "log=1 is not true or false", ""),
        ("train.learning_rate: {low: 1e-4, high: 0.1}", "low='1e-4' is not a number", ""),
        ("model.dims: {low: 8.5, high: 16}", "low=8.5 is not a whole number", ""),
        ("model.dims: {low: 8, high: 16, step: 0}", "step=0 is not above 0", ""),
        ("model.dropout: {low: 0.0, high: 1.5}", "model.dropout=1.5 is not allowed", "dropout of"),
        ("model.positions: [learned, sideways]", "model.positions='sideways'", "order of events"),
    ],
)
def test_what_can_not_be_used_is_named(text: str, what: str, do: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_space(path, load_settings())
    assert what in caught.value.what
    assert do in caught.value.do
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist\s+do: +conf/search\.yaml"):
        read_space("nowhere.yaml", load_settings())


def test_values_that_contradict_each_other_are_told() -> None:
    settings = load_settings()
    assert with_values(settings, {"model.heads": 4, "train.ranks": 1}).model.heads == 4
    with pytest.raises(ConfigError, match=r"model\.heads=3 must divide model\.dims=32"):
        with_values(settings, {"model.heads": 3, "model.dims": 32})
    with pytest.raises(ConfigError, match=r"model\.dropout=1\.5 is not allowed"):
        with_values(settings, {"model.dropout": 1.5})


def test_the_best_values_are_a_conf_file(tmp_path: Path) -> None:
    conf = tmp_path / "own.yaml"
    conf.write_text("spark: {master: 'local[3]'}\nmodel: {heads: 4}\n", encoding="utf-8")
    settings = load_settings(conf, ["train.max_epochs=7", "lake.root=/elsewhere"])
    inner = "train.pretraining.masked_share"
    values = {"model.dims": 128, "train.learning_rate": 0.001, inner: 0.4}
    best = tmp_path / "best.yaml"
    best.write_text(yaml.safe_dump(conf_with(conf, settings, values)), encoding="utf-8")
    found = load_settings(best, ["lake.root=/elsewhere"])
    assert found == with_values(settings, values)
    train = yaml.safe_load(best.read_text())["train"]
    assert train.pop("pretraining")["masked_share"] == 0.4
    assert train == {"max_epochs": 7, "learning_rate": 0.001}
