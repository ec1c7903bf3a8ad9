"""Jobs and results as files; the parts of a step that are plain arithmetic."""

import dataclasses
from pathlib import Path

import pytest
import torch

from recsys.config import load_settings
from recsys.errors import TrainingError
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.moving_average import MovingAverage
from recsys.train.optimization import Schedule, is_emulated, make_optimizer, step_seed
from recsys.train.worker import suits_long_cycle
from tests.training_tables import make_job, make_table

pytestmark = pytest.mark.torch

RESULT = TrainingResult("f", "r", "/b", 3, 2, {"ndcg": 0.5}, 30, 900, 1.5, 600.0, 0.01)


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    table, _ = make_table(tmp_path / "t", files={9: [4]}, validation={5: [2]}, write=False)
    return make_job(tmp_path, table, uri="sqlite:///x.db")


def test_a_job_returns(job: TrainingJob, tmp_path: Path) -> None:
    job.save(tmp_path / "deep/job.json")
    assert TrainingJob.load(tmp_path / "deep/job.json") == job
    assert job.max_length == 8


def test_a_result_returns(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "result.json")
    assert TrainingResult.load(tmp_path / "result.json") == RESULT


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}, "table": {"files": []}}'])
def test_broken_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    for kind in (TrainingJob, TrainingResult):
        with pytest.raises(TrainingError, match="can't be read") as caught:
            kind.load(tmp_path / "x.json")
        assert caught.value.where.endswith("x.json")


@pytest.mark.parametrize(
    ("precision", "capability", "machine", "emulated"),
    [
        (torch.bfloat16, "AVX2", "x86_64", True),
        (torch.float16, "DEFAULT", "x86_64", True),
        (torch.float32, "AVX2", "x86_64", False),
        (torch.bfloat16, "AVX512", "x86_64", False),
        (torch.bfloat16, "DEFAULT", "aarch64", False),
    ],
)
def test_types_that_a_processor_lacks_are_known(
    monkeypatch: pytest.MonkeyPatch,
    precision: torch.dtype,
    capability: str,
    machine: str,
    emulated: bool,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert is_emulated(precision, torch.device("cpu")) is emulated
    assert not is_emulated(precision, torch.device("cuda"))


def test_the_learning_rate_rises_then_falls() -> None:
    schedule = Schedule(learning_rate=1.0, warmup_steps=4, total_steps=104, final_share=0.1)
    assert [schedule.at(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.at(4) == pytest.approx(1.0)
    assert schedule.at(54) == pytest.approx(0.55)
    assert schedule.at(104) == schedule.at(500) == pytest.approx(0.1)
    assert dataclasses.replace(schedule, warmup_steps=0).at(0) == 1.0
    linear, constant = (dataclasses.replace(schedule, kind=k) for k in ("linear", "constant"))
    assert linear.at(29) == pytest.approx(0.775)
    assert linear.at(104) == pytest.approx(0.1)
    assert constant.at(2) == 0.75
    assert constant.at(4) == constant.at(104) == 1.0


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["train.optimizer=adam"], torch.optim.Adam),
        (["train.optimizer=adamw"], torch.optim.AdamW),
        (["train.optimizer=sgd", "train.momentum=0.8"], torch.optim.SGD),
    ],
)
def test_matrices_decay_norms_and_biases_do_not(
    overrides: list[str], kind: type[torch.optim.Optimizer]
) -> None:
    settings = load_settings(None, [*overrides, "train.weight_decay=0.5"]).train
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    optimizer = make_optimizer(model, settings)
    assert type(optimizer) is kind
    decayed = {
        id(weight): group["weight_decay"]
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    found = {name: decayed[id(weight)] for name, weight in model.named_parameters()}
    assert found == {"0.weight": 0.5, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0}
    if kind is torch.optim.SGD:
        assert optimizer.param_groups[0]["momentum"] == 0.8


def test_seeds_of_steps_differ() -> None:
    seeds = {step_seed(s, step, rank) for s in (0, 1) for step in range(50) for rank in range(4)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_average_starts_near_the_weights_and_then_lags() -> None:
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    torch.nn.init.constant_(average.weight, 0.0)
    MovingAverage(average, model, decay=0.99).after_step(global_step=0)
    assert average.weight.item() == pytest.approx(0.9)
    MovingAverage(average, model, decay=0.99).after_step(global_step=10_000)
    assert average.weight.item() == pytest.approx(0.9 + 0.1 * 0.01)
    MovingAverage(average, model, decay=0.0).after_step(global_step=10_000)
    assert average.weight.item() == 1.0


@pytest.mark.parametrize(
    ("overrides", "gpu", "suits"),
    [
        ((), False, True),
        ((), True, False),
        (("train.device=cpu",), True, True),
        (("train.exchange.tables=sharded", "train.exclude_own_items=false"), False, False),
        (("train.parallel.pipeline_stages=2", "model.blocks=2"), False, False),
    ],
)
def test_horovod_looks_less_often_where_gradients_alone_are_sent_by_cpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    gpu: bool,
    suits: bool,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    table, _ = make_table(tmp_path / "t", files={9: [4]}, validation={9: [4]}, write=False)
    job = make_job(tmp_path, table, "train.launcher=horovodrun", "train.ranks=2", *overrides)
    assert suits_long_cycle(job.settings.train) == suits
