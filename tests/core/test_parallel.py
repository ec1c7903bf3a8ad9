"""Settings of a pipeline: what contradicts it is refused, with both settings by name."""

from __future__ import annotations

import pytest

from recsys.config import load_settings
from recsys.errors import ConfigError

pytestmark = pytest.mark.core

STAGES = "train.parallel.pipeline_stages"
MICRO = "train.parallel.micro_batches"
TWO = [f"{STAGES}=2", "train.ranks=4", "model.blocks=4"]


@pytest.mark.parametrize(
    ("overrides", "relation"),
    [
        ([f"{MICRO}=4"], f"{MICRO}=4 is for a pipeline: set {STAGES} to 2 or more"),
        (["train.launcher=single", "train.ranks=1", f"{STAGES}=2"],
         f"{STAGES}=2 must divide train.ranks=1, as each stage is a process of its own: set "
         "train.ranks to a multiple of 2, and train.launcher=horovodrun or spark"),
        ([*TWO, f"{STAGES}=3"], f"{STAGES}=3 must divide train.ranks=4"),
        ([*TWO, "model.blocks=1"], f"{STAGES}=2 are more than model.blocks=1"),
        ([*TWO, f"{MICRO}=1"], f"{MICRO}=1 must be 2 or more, one for each stage of {STAGES}=2"),
        ([*TWO, "train.per_rank_batch_size=7"],
         f"{MICRO}=8 (null is four a stage) are more than train.per_rank_batch_size=7"),
        ([*TWO, "model.kind=two_tower"],
         f"{STAGES}=2 can't go with model.kind=two_tower; allowed: transformer"),
        ([*TWO, "train.task=pretraining"], "train.task=pretraining; allowed: next_item"),
        ([*TWO, "train.min_ranks=2"], "train.min_ranks=2; allowed: null"),
        ([*TWO, "train.precision=fp16"], "train.precision=fp16; allowed: float32 or bf16"),
        ([*TWO, "train.exchange.average_every_steps=4"],
         "train.exchange.average_every_steps=4; allowed: 1"),
        ([*TWO, "train.exchange.compression=int8"],
         "train.exchange.compression=int8; allowed: none, fp16 or bf16"),
        ([*TWO, "train.exchange.rows=sparse"], "train.exchange.rows=sparse; allowed: auto or"),
    ],
)  # fmt: skip
def test_a_pipeline_that_other_settings_contradict_is_refused(
    overrides: list[str], relation: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, overrides)
    assert relation in caught.value.what


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_any_loss_goes_with_a_split_table(loss: str) -> None:
    train = load_settings(None, [*TWO, "train.exchange.tables=sharded", f"train.loss={loss}"]).train
    assert (train.loss, train.exchange.tables) == (loss, "sharded")


def test_ranks_are_stages_times_readers() -> None:
    train = load_settings(None, TWO).train
    assert (train.ranks, train.readers, train.parallel.parts) == (4, 2, 8)
    assert load_settings(None, ["train.ranks=4"]).train.readers == 4


@pytest.mark.parametrize(
    ("stages", "micro_batches", "bubble"), [(2, 2, 1 / 3), (2, 8, 1 / 9), (4, 16, 3 / 19)]
)
def test_what_a_stage_waits(stages: int, micro_batches: int, bubble: float) -> None:
    parallel = load_settings(None, [*TWO, f"{STAGES}={stages}", f"{MICRO}={micro_batches}"]).train
    assert parallel.parallel.bubble == pytest.approx(bubble)


def test_a_training_without_stages_waits_for_none() -> None:
    assert load_settings(None).train.parallel.bubble == 0.0
