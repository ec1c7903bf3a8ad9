"""What ranks send each other: nothing of a gradient is lost, and all ranks end with the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys.config import load_settings
from recsys.errors import ConfigError
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.exchange import make_exchange
from recsys.train.exchange.contract import Compressor, Exchange
from recsys.train.exchange.gradients import CompressedGradients
from recsys.train.exchange.local_steps import LocalSteps
from recsys.train.exchange.power_sgd import PowerSgdSum
from recsys.train.exchange.quantized import Bf16Sum, Int8Sum, decode, encode
from recsys.train.exchange.top_k import TopKSum
from tests.thread_ranks import ThreadRank, run_ranks

pytestmark = pytest.mark.torch

KINDS: dict[str, Callable[[Communicator], Compressor]] = {
    "bf16": Bf16Sum,
    "int8": Int8Sum,
    "top_k": lambda communicator: TopKSum(communicator, 0.1),
    "power_sgd": lambda communicator: PowerSgdSum(communicator, 2),
}
HOLDING_BACK = [kind for kind in KINDS if kind != "bf16"]
sizes, seeds = st.integers(2, 4), st.integers(0, 99)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
few = settings(max_examples=25, deadline=None)


def draw(seed: int, rank: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randn(shape, generator=generator) * 10.0 ** (rank - 1)


def sum_over_ranks(compressor: Compressor, gradient: Tensor) -> Tensor:
    rounds = compressor.sum("weight", gradient)
    wait = next(rounds)
    while True:
        try:
            wait = rounds.send(wait())
        except StopIteration as done:
            return done.value


@pytest.mark.parametrize("kind", HOLDING_BACK)
@few
@given(size=sizes, shape=shapes, steps=st.integers(1, 4), seed=seeds)
def test_what_is_not_sent_is_held_back(
    kind: str, size: int, shape: tuple[int, int], steps: int, seed: int
) -> None:
    def train(rank: ThreadRank) -> tuple[list[Tensor], Tensor]:
        compressor = KINDS[kind](rank)
        gradients = [draw(seed + step, rank.rank, shape) for step in range(steps)]
        sums = [sum_over_ranks(compressor, gradient) for gradient in gradients]
        if isinstance(compressor, Int8Sum):
            compressor.settle()
        return sums, compressor.held_back["weight"]

    ranks = run_ranks(size, train)
    for sums, _ in ranks:
        assert all(torch.equal(a, b) for a, b in zip(sums, ranks[0][0], strict=True))
    asked = sum(draw(seed + step, r, shape) for step in range(steps) for r in range(size))
    found = torch.stack([*ranks[0][0], *(held for _, held in ranks)]).sum(dim=0)
    torch.testing.assert_close(found, asked, rtol=1e-3, atol=1e-3 * 10.0 ** (size - 2))


@few
@given(size=sizes, shape=shapes, seed=seeds)
def test_bfloat16_loses_one_part_in_128_of_the_entries(
    size: int, shape: tuple[int, int], seed: int
) -> None:
    sums = run_ranks(size, lambda r: sum_over_ranks(Bf16Sum(r), draw(seed, r.rank, shape)))
    assert all(torch.equal(total, sums[0]) for total in sums)
    gradients = torch.stack([draw(seed, rank, shape) for rank in range(size)])
    allowed = 2.0**-7 * gradients.abs().sum(dim=0)
    assert bool(((sums[0] - gradients.sum(dim=0)).abs() <= allowed).all())


@few
@given(rows=st.integers(1, 3), blocks=st.integers(1, 3), seed=seeds)
def test_eight_bits_lose_half_a_scale_of_the_block(rows: int, blocks: int, seed: int) -> None:
    values = draw(seed, 1, (rows, blocks * 256))
    values[0, :256] = 0.0
    error = (decode(encode(values)) - values).view(rows, blocks, 256).abs()
    largest = values.view(rows, blocks, 256).abs().amax(dim=2, keepdim=True)
    assert bool((error <= largest / 127 * 0.501).all())


def test_the_largest_entries_are_sent_first_and_the_others_later() -> None:
    gradients = [torch.tensor([[8.0, 1.0, 2.0, 0.0]]), torch.tensor([[0.0, 4.0, 3.0, 0.0]])]

    def train(rank: ThreadRank) -> list[list[list[float]]]:
        compressor = TopKSum(rank, 0.25)
        steps = [gradients[rank.rank], torch.zeros(1, 4), torch.zeros(1, 4)]
        return [sum_over_ranks(compressor, gradient).tolist() for gradient in steps]

    wanted = [[[8.0, 4.0, 0.0, 0.0]], [[0.0, 0.0, 5.0, 0.0]], [[0.0, 1.0, 0.0, 0.0]]]
    assert run_ranks(2, train) == [wanted, wanted]


def test_a_gradient_of_low_rank_is_found_exactly() -> None:
    gradient = draw(1, 1, (30, 2)) @ draw(2, 1, (20, 2)).T
    for total in run_ranks(2, lambda rank: sum_over_ranks(PowerSgdSum(rank, 2), gradient)):
        torch.testing.assert_close(total, 2 * gradient, rtol=1e-4, atol=1e-4)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40, bias=False))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_optimizer_sees_the_sum_of_all_ranks(accumulated: int) -> None:
    """A share of 1 sends all entries: then the gradient is the plain sum."""
    models = [make_model() for _ in range(2)]
    inputs = [draw(step, 1, (8, 40)) for step in range(4)]

    def train(rank: ThreadRank) -> list[Tensor]:
        exchange, model = CompressedGradients(rank, TopKSum(rank, 1.0)), models[rank.rank]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        exchange.attach(optimizer, model, accumulated)
        for own in inputs[rank.rank :: 2][:accumulated]:
            model(own).square().sum().backward()
        with exchange.reduced(optimizer):
            return [weight.grad.clone() for weight in model.parameters()]  # type: ignore[union-attr]

    found = run_ranks(2, train)
    whole = make_model()
    for own in [*inputs[::2][:accumulated], *inputs[1::2][:accumulated]]:
        whole(own).square().sum().backward()
    for gradients in found:
        for gradient, weight in zip(gradients, whole.parameters(), strict=True):
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", HOLDING_BACK)
def test_what_two_ranks_hold_back_three_ranks_take_over(kind: str) -> None:
    def attach(rank: ThreadRank) -> tuple[CompressedGradients, nn.Module]:
        exchange, model = CompressedGradients(rank, KINDS[kind](rank)), copy.deepcopy(make_model())
        exchange.attach(torch.optim.SGD(model.parameters(), lr=0.1), model, 1)
        return exchange, model

    def train(rank: ThreadRank) -> tuple[dict[str, Tensor], dict[str, object]]:
        exchange, model = attach(rank)
        for weight in model.parameters():
            weight.grad = draw(1, rank.rank, tuple(weight.shape))
        with exchange.reduced(torch.optim.SGD(model.parameters(), lr=0.1)):
            pass
        if isinstance(exchange._compressor, Int8Sum):
            exchange._compressor.settle()
        before = {name: kept.clone() for name, kept in exchange._compressor.held_back.items()}
        exchange.agree([])
        return before, exchange.state_dict()

    def take_over(rank: ThreadRank) -> dict[str, Tensor]:
        exchange, _ = attach(rank)
        exchange.load_state_dict(found[0][1])
        return exchange._compressor.held_back

    found = run_ranks(2, train)
    after = run_ranks(3, take_over)
    assert set(found[0][0]) == {"0.weight", "1.weight"}
    for name in found[0][0]:
        before = sum(held[name] for held, _ in found)
        torch.testing.assert_close(sum(held[name] for held in after), before)


@pytest.mark.parametrize("kind", ["int8", "top_k"])
def test_one_rank_applies_what_others_held_back(kind: str) -> None:
    """And two ranks begin with nothing held back where one trained before."""
    chosen = load_settings(None, [f"train.exchange.compression={kind}"]).train.exchange

    def train(rank: Communicator, state: dict[str, Any]) -> tuple[list[Tensor], dict[str, Any]]:
        model = make_model()
        exchange = make_exchange(chosen, rank, model)
        optimizer = exchange.attach(torch.optim.SGD(model.parameters(), lr=0.1), model, 1)
        exchange.load_state_dict(state)
        for weight in model.parameters():
            weight.grad = draw(1, rank.rank, tuple(weight.shape))
        own = [weight.grad.clone() for weight in model.parameters()]  # type: ignore[union-attr]
        with exchange.reduced(optimizer):
            got = [weight.grad - grad for weight, grad in zip(model.parameters(), own, strict=True)]
        exchange.agree([])
        return got, exchange.state_dict()

    (_, alone) = train(SingleProcess(), {})
    found = run_ranks(2, lambda rank: train(rank, alone))
    state = found[0][1]
    late, after = train(SingleProcess(), state)
    names = [name for name, _ in make_model().named_parameters()]
    for name, added in zip(names, late, strict=True):
        held = state["held_back"].get(name)
        wanted = torch.zeros_like(added) if held is None else 2 * held
        torch.testing.assert_close(added, wanted, rtol=1e-3, atol=1e-3)
    assert after == {}


@pytest.mark.parametrize(
    ("delay", "wanted"),
    [
        # Rank 0 adds 1 each step, rank 1 adds 3; the average of [2, 6] is 4, then of [6, 10] 8.
        (0, [[1.0, 4.0, 5.0, 8.0], [3.0, 4.0, 7.0, 8.0]]),
        # Sent after the second step, applied after the third: each moves by 4 less what it sent.
        (1, [[1.0, 2.0, 5.0, 6.0], [3.0, 6.0, 7.0, 10.0]]),
    ],
)
def test_ranks_average_their_weights_every_second_step(
    delay: int, wanted: list[list[float]]
) -> None:
    def train(rank: ThreadRank) -> tuple[list[float], list[float]]:
        model = nn.Linear(1, 1, bias=False)
        model.weight.data.zero_()
        exchange, seen = LocalSteps(rank, every=2, delay=delay), []
        assert exchange.start_divisor(7.0)() == 7.0
        for step in range(4):
            model.weight.data += 1.0 + 2.0 * rank.rank
            exchange.after_step(model, step)
            seen.append(model.weight.item())
        moment = torch.tensor([float(rank.rank)])
        exchange.agree([model.weight.data, moment])
        return seen, [model.weight.item(), moment.item()]

    found = run_ranks(2, train)
    assert [seen for seen, _ in found] == wanted
    assert [agreed for _, agreed in found] == [[8.0, 0.5], [8.0, 0.5]]


def test_a_rank_that_is_alone_exchanges_nothing() -> None:
    chosen = load_settings(None, ["train.exchange.compression=top_k"]).train.exchange
    assert type(make_exchange(chosen, SingleProcess(), make_model())) is Exchange


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="ranks send none; set one of them"):
        load_settings(
            None, ["train.exchange.compression=int8", "train.exchange.average_every_steps=4"]
        )
    with pytest.raises(ConfigError, match="must be less than average_every_steps=2"):
        load_settings(
            None,
            ["train.exchange.average_every_steps=2", "train.exchange.average_delay_steps=2"],
        )
