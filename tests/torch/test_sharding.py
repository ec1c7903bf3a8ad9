"""Split tables: look-ups, softmax and ranks over parts are those over the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from recsys.models.losses import full_softmax_loss
from recsys.train.communication import SingleProcess
from recsys.train.objectives.next_item_ranks import sum_figures
from recsys.train.optimization import clip_gradients
from recsys.train.sharding import softmax
from recsys.train.sharding.owners import LookUp, Owners
from recsys.train.sharding.softmax import rank_targets, sharded_softmax_loss
from tests.split_rows import draw, part_of, whole_of
from tests.thread_ranks import ThreadRank, run_ranks

pytestmark = pytest.mark.torch

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 99)
ROWS, DIMS = 23, 4


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "chunk_positions", lambda *_: 3)
        yield


@few
@given(
    needed=st.lists(st.lists(st.integers(0, ROWS - 1), max_size=9), min_size=1, max_size=4),
    sparse=st.booleans(),
)
def test_rows_come_from_their_owners_and_gradients_go_back(
    needed: list[list[int]], sparse: bool
) -> None:
    table = draw(1, ROWS, DIMS)

    def look_up(rank: ThreadRank) -> tuple[Tensor, Tensor]:
        rows, weight = torch.tensor(needed[rank.rank], dtype=torch.int64), part_of(table, rank)
        vectors = LookUp.apply(weight, rows, Owners(rank, ROWS), sparse)
        (vectors.square() * (1 + rank.rank)).sum().backward()
        assert weight.grad is not None
        assert weight.grad.is_sparse is sparse
        return vectors.detach(), weight.grad.to_dense()

    found = run_ranks(len(needed), look_up)
    weight = table.clone().requires_grad_()
    for rank, rows in enumerate(needed):
        vectors = functional.embedding(torch.tensor(rows, dtype=torch.int64), weight)
        (vectors.square() * (1 + rank)).sum().backward()
        assert torch.equal(found[rank][0], vectors.detach())
    torch.testing.assert_close(
        whole_of([gradient for _, gradient in found]),
        torch.zeros_like(table) if weight.grad is None else weight.grad,
    )


Positions = tuple[list[Tensor], list[Tensor], list[Tensor]]


def draw_positions(counts: list[int], seed: int) -> Positions:
    """Of each rank: states, targets, weights."""
    hidden = [3.0 * draw(seed + rank, count, DIMS) for rank, count in enumerate(counts)]
    dice = torch.Generator().manual_seed(seed)
    targets = [torch.randint(1, ROWS, (count,), generator=dice) for count in counts]
    return hidden, targets, [torch.rand(count, generator=dice) for count in counts]


@few
@given(
    counts=st.lists(st.integers(0, 8), min_size=1, max_size=4), weighted=st.booleans(), seed=seeds
)
def test_the_softmax_over_parts_is_that_over_the_whole(
    counts: list[int], weighted: bool, seed: int
) -> None:
    table, (hidden, targets, weights) = draw(seed, ROWS, DIMS), draw_positions(counts, seed)

    def measure(rank: ThreadRank) -> tuple[Tensor, Tensor, Tensor]:
        states, weight = hidden[rank.rank].clone().requires_grad_(), part_of(table, rank)
        worth = weights[rank.rank] if weighted else None
        owners = Owners(rank, ROWS)
        loss = sharded_softmax_loss(states, weight, targets[rank.rank], worth, owners)
        (loss / 7.0).backward()
        assert states.grad is not None
        assert weight.grad is not None
        return loss.detach(), states.grad, weight.grad

    found = run_ranks(len(counts), measure)
    states, weight = torch.cat(hidden).requires_grad_(), table.clone().requires_grad_()
    worth = torch.cat(weights) if weighted else None
    wanted = full_softmax_loss(states, weight, torch.cat(targets), worth)
    (wanted / 7.0).backward()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(sum(loss for loss, _, _ in found), wanted.detach(), **close)
    torch.testing.assert_close(torch.cat([own for _, own, _ in found]), states.grad, **close)
    torch.testing.assert_close(whole_of([own for _, _, own in found]), weight.grad, **close)


@few
@given(counts=st.lists(st.integers(0, 8), min_size=1, max_size=4), seed=seeds)
def test_ranks_are_those_among_all_items(counts: list[int], seed: int) -> None:
    """Vectors and states are whole numbers, so that there are ties, which count against."""
    table, (hidden, targets, _) = draw(seed, ROWS, DIMS).round(), draw_positions(counts, seed)
    hidden = [states.round() for states in hidden]

    def rank_own(rank: ThreadRank) -> tuple[Tensor, Tensor]:
        weight, owners = part_of(table, rank).detach(), Owners(rank, ROWS)
        return rank_targets(owners, weight, hidden[rank.rank], targets[rank.rank])

    for rank, (ranks, losses) in enumerate(run_ranks(len(counts), rank_own)):
        scores = hidden[rank] @ table.T
        scores[:, 0] = -torch.inf
        own = scores.gather(1, targets[rank][:, None])
        assert torch.equal(ranks, (scores >= own).sum(dim=1))
        torch.testing.assert_close(losses, scores.logsumexp(dim=1) - own[:, 0])


def test_a_state_that_is_no_number_ranks_last() -> None:
    hidden, targets = torch.full((1, DIMS), torch.nan), torch.tensor([3])
    owners = Owners(SingleProcess(), ROWS)
    ranks, losses = rank_targets(owners, draw(1, ROWS, DIMS), hidden, targets)
    assert sum_figures(ranks, losses)[:2].tolist() == [0.0, 0.0]


def test_the_norm_counts_the_parts_of_all_ranks() -> None:
    whole, wanted = draw(1, ROWS, DIMS), nn.Module()
    wanted.table, wanted.rest = nn.Parameter(whole), nn.Parameter(draw(2, 5))
    wanted.table.grad, wanted.rest.grad = draw(3, ROWS, DIMS), draw(4, 5)

    def clip(rank: ThreadRank) -> tuple[Tensor, Tensor]:
        model = nn.Module()
        model.table = nn.Module()
        model.table.sharded = True  # type: ignore[assignment]
        model.table.weight = nn.Parameter(part_of(whole, rank).detach())
        model.table.weight.grad = part_of(wanted.table.grad, rank).detach()  # type: ignore[arg-type]
        model.rest = nn.Parameter(draw(2, 5))
        model.rest.grad = draw(4, 5)
        clip_gradients(model, 0.5, rank)
        return model.table.weight.grad, model.rest.grad

    found = run_ranks(3, clip)
    clip_gradients(wanted, 0.5, SingleProcess())
    torch.testing.assert_close(whole_of([own for own, _ in found]), wanted.table.grad)
    for _, rest in found:
        torch.testing.assert_close(rest, wanted.rest.grad)
