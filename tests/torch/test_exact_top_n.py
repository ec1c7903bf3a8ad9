"""Lists from rough scores against a full sort of exact ones, written without any cleverness."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.models import SequenceTransformer, TransformerConfig
from recsys.ranking import exact_top_n, floors, item_index
from recsys.ranking.candidates import bound
from recsys.ranking.exact_scores import score_pairs
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.histories import Histories
from recsys.ranking.item_index import BLOCK, ItemIndex, build_index, load_index
from recsys.ranking.rough_scores import describe_blocks, make_rough
from recsys.ranking.tiles import TILE_ITEMS
from recsys.ranking.top_n import IntArray, RankedItems
from recsys.score.ranker import index_items, rank_histories

pytestmark = pytest.mark.torch

MANY = 5 * BLOCK + 300


@pytest.fixture(scope="module", autouse=True, params=[torch.int8, torch.int16], ids=str)
def codes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Those of processors that multiply bytes fast, and of the others: lists are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_index, "choose_codes", lambda dims: request.param)
        yield


def rank_naively(
    users: Tensor, vectors: Tensor, rankable: Tensor, n: int, seen: list[IntArray]
) -> tuple[list[list[int]], list[list[float]]]:
    lists, values = [], []
    for user, known in zip(users, seen, strict=True):
        scores = score_all(user.double().numpy(), vectors.double().numpy())
        allowed = set(np.flatnonzero(rankable.numpy()).tolist()) - {0} - set(known.tolist())
        best = sorted(allowed, key=lambda i: (-scores[i], i))[:n]
        lists.append(best + [0] * (n - len(best)))
        values.append([float(scores[i]) for i in best] + [-math.inf] * (n - len(best)))
    return lists, values


def score_all(user: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Sums without error of few products; of many in 80 bits, which float32 can't tell apart."""
    products = vectors * user
    if len(vectors) < 100:
        return np.array([math.fsum(row) for row in products.tolist()]).astype(np.float32)
    return products.astype(np.longdouble).sum(axis=1).astype(np.float32)


def check(
    ranked: RankedItems, users: Tensor, vectors: Tensor, rankable: Tensor, seen: list[IntArray]
) -> None:
    items, scores = rank_naively(users, vectors, rankable, ranked.items.shape[1], seen)
    assert ranked.items.tolist() == items
    assert ranked.scores.tolist() == scores
    assert (ranked.items.dtype, ranked.scores.dtype) == (torch.int64, torch.float32)


# Few different values, so that ties are everywhere; and values that differ by less than codes or a
# float32 product can tell apart.
TIED = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0])
NEAR = st.sampled_from([1.0, 1.0 + 2.0**-23, 1.0 - 2.0**-24, 1.0 + 2.0**-12, -1.0, 1e-30, 3e4])
Case = tuple[Tensor, Tensor, Tensor, int, list[IntArray]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    users, columns = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    dims = draw(st.integers(1, 6))
    value = draw(st.sampled_from([TIED, NEAR]))

    def matrix(rows: int) -> Tensor:
        row = st.lists(value, min_size=dims, max_size=dims)
        return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))

    known = st.lists(st.integers(0, columns + 3), max_size=columns)
    seen = [np.array(draw(known), dtype=np.int64) for _ in range(users)]
    rankable = torch.tensor(draw(st.lists(st.booleans(), min_size=columns, max_size=columns)))
    return matrix(users), matrix(columns), rankable, draw(st.integers(1, 45)), seen


def lose(users: Tensor, _: object, __: object, n: int, *___: object) -> tuple[RankedItems, Tensor]:
    empty = RankedItems(torch.ones(len(users), n).long(), torch.ones(len(users), n))
    return empty, torch.ones(len(users), dtype=torch.bool)


@pytest.mark.parametrize("way", ["compiled", "wild", "dense"])
@settings(max_examples=50, deadline=None)
@given(case=cases(), data=st.data())
def test_equals_a_full_sort(way: str, case: Case, data: st.DataObject) -> None:
    users, vectors, rankable, n, seen = case
    size = len(vectors)
    shown = data.draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size))
    mask = None if shown is None else torch.tensor(shown)
    index = build_index(vectors, rankable)
    with pytest.MonkeyPatch.context() as patch:
        if way == "dense":  # as on a GPU, and for users whom the loops lost
            patch.setattr(exact_top_n, "_rank_compiled", lose)
        if way == "wild":
            # Any floor, a wrong one too, and hardly any room.
            patch.setattr(floors, "_place", lambda *_: 1)
            patch.setattr(exact_top_n, "_capacity", lambda n: n + TILE_ITEMS)
        ranked = rank_products(users, index, n, seen, mask)
    check(ranked, users, vectors, rankable if mask is None else rankable & mask, seen)


def make_catalogue(kind: str, items: int, dims: int, seed: int) -> Tensor:
    """Vectors [items + 1, dims] of a kind that is hard in its own way."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(items + 1, dims, generator=generator)
    if kind == "biases":  # one column is far larger than the others, and nearly common to all
        vectors[:, 0] = 40.0 + 8.0 * vectors[:, 0]
    if kind == "near ties":  # less than a float32 product can tell between all of them
        vectors = torch.ones(items + 1, dims) + 1e-4 * vectors
    if kind == "copies":
        vectors = vectors[torch.arange(items + 1) % 7]
    if kind == "lengths":  # the best for nobody but those who point there
        vectors *= 10.0 ** torch.linspace(-6, 6, items + 1)[:, None]
    return vectors


@pytest.mark.parametrize("kind", ["normal", "biases", "near ties", "copies", "lengths"])
@settings(max_examples=2, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 20, 150]),
    share=st.sampled_from([None, 0.001, 0.02, 0.5, 0.99]),
)
def test_equals_a_full_sort_over_several_blocks(
    kind: str, seed: int, n: int, share: float | None
) -> None:
    vectors = make_catalogue(kind, MANY, 24, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    users = torch.randn(3, 24, generator=generator)
    rankable = torch.rand(MANY + 1, generator=generator) < 0.9
    seen = [np.arange(5, 400), np.arange(0), np.arange(1, MANY + 9, 2)]
    shown = None if share is None else torch.rand(MANY + 1, generator=generator) < share
    index = build_index(vectors, rankable)
    ranked = rank_products(users, index, n, seen, shown)
    check(ranked, users, vectors, rankable if shown is None else rankable & shown, seen)


def test_bounds_hold() -> None:
    for kind in ("normal", "biases", "near ties", "lengths"):
        vectors = make_catalogue(kind, MANY, 16, 3)
        index = build_index(vectors, torch.ones(MANY + 1, dtype=torch.bool))
        users = torch.randn(20, 16)
        rough, blocks = make_rough(users, index), describe_blocks(index)
        raised = 128 if index.kind == torch.int8 else 0
        codes = index.codes.transpose(1, 2).reshape(-1, 16)[:MANY].double() - raised
        product = rough.codes.double() @ codes.T
        scale = index.scale.repeat_interleave(BLOCK)[:MANY]
        found = rough.scale[:, None] * scale * product + rough.offset[:, None]
        user, row = torch.arange(20).repeat_interleave(MANY), torch.arange(MANY).repeat(20)
        scores = score_pairs(users, index.vectors, user, row, index.longest).double()
        wrong = (scores.view(20, MANY) - found).abs()
        ours = list(zip(rough.wrong.tolist(), rough.size.tolist(), strict=True))
        theirs = list(zip(blocks.radius, blocks.error, strict=True))
        most = torch.tensor([[bound(*u, *b, blocks.centre) for b in theirs] for u in ours])
        most = most.double().repeat_interleave(BLOCK, dim=1)[:, :MANY]
        assert (wrong <= most).all(), kind


def rank_by(size: int, users: Tensor, index: ItemIndex, seen: list[IntArray]) -> RankedItems:
    parts = [
        rank_products(users[at : at + size], index, 9, seen[at : at + size])
        for at in range(0, len(users), size)
    ]
    return RankedItems(*(torch.cat(column) for column in zip(*parts, strict=True)))


def test_batches_and_room_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = make_catalogue("near ties", MANY, 24, 5)
    rankable = torch.ones(MANY + 1, dtype=torch.bool)
    users, seen = torch.randn(40, 24), [np.arange(1, 50)] * 40
    index = build_index(vectors, rankable)
    found = [rank_by(size, users, index, seen) for size in (1, 7, 40)]
    # More candidates than there is room for: the best ones are taken in between.
    monkeypatch.setattr(exact_top_n, "_capacity", lambda n: n + TILE_ITEMS)
    found.append(rank_by(40, users, index, seen))
    monkeypatch.setattr(exact_top_n, "_rank_compiled", lose)
    found.append(rank_by(40, users, index, seen))
    for ranked in found[1:]:
        assert torch.equal(ranked.items, found[0].items)
        assert torch.equal(ranked.scores, found[0].scores)


def test_a_score_is_the_dot_product_rounded_whatever_cancels() -> None:
    users = torch.tensor([[1e20, 1.0, -1e20, 0.0], [1.0, 2.0**-24, 2.0**-60, 0.0], [0.0] * 4])
    rows, longest = torch.zeros(3, dtype=torch.int64), torch.tensor([2.0], dtype=torch.float64)
    found = score_pairs(users, torch.ones(1, 4), torch.arange(3), rows, longest)
    # 1 + 2^-24 lies between two float32, and is above the middle by less than float64 can tell:
    # rounded to float64 it is the middle, and of the two the even one is taken.
    assert found.tolist() == [1.0, 1.0, 0.0]


def test_what_float64_can_not_round_is_no_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scores of exactly 0, and sums that lie in the middle of two float32, or next to it."""
    users = torch.zeros(2, 8)
    users[0, 0] = 1.0
    users[1, :3] = torch.tensor([1.0, 2.0**-24, 2.0**-50])
    vectors = torch.eye(8)[torch.arange(MANY + 1) % 8]
    vectors[1::16], vectors[2::16] = 1.0, -1.0
    index = build_index(vectors, torch.ones(MANY + 1, dtype=torch.bool))
    monkeypatch.setattr(exact_top_n, "rank_all", None)
    ranked = rank_products(users, index, 2000)
    check(ranked, users, vectors, torch.ones(MANY + 1), [np.arange(0)] * 2)


def test_a_mapped_index_gives_the_same_lists(tmp_path: Path) -> None:
    vectors, rankable = make_catalogue("biases", MANY, 24, 7), torch.arange(MANY + 1) % 3 > 0
    users = torch.randn(5, 24)
    made = rank_products(users, build_index(vectors, rankable), 30)
    build_index(vectors, rankable, folder=tmp_path)
    read = rank_products(users, load_index(tmp_path), 30)
    assert torch.equal(made.items, read.items)
    assert torch.equal(made.scores, read.scores)
    assert (made.items % 3 > 0).all()


def test_a_kept_index_gives_the_lists_of_one_that_is_made() -> None:
    torch.manual_seed(3)
    model = SequenceTransformer(TransformerConfig(50, 4, dims=8, blocks=1, heads=2, dropout=0.0))
    popularity = np.arange(56, dtype=np.float32) % 5
    histories = Histories([np.array([1, 2, 3]), np.array([51]), np.array([7])])
    seen = [np.array([4, 9]), np.array([51]), np.arange(1, 52)]
    index = index_items(model, popularity)
    made = rank_histories(model, histories, seen, popularity, 8)
    kept = rank_histories(model, histories, seen, popularity, 8, index=index)
    assert (made.items == kept.items).all()
    assert (made.scores == kept.scores).all()
    # The model's items, unless they are not sold; nothing for who is unknown or has seen them all.
    assert made.from_model.sum(axis=1).tolist() == [8, 0, 0]
    assert (popularity[made.items[0]] > 0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e38])
def test_what_gives_no_score_is_refused(value: float) -> None:
    vectors, rankable = torch.ones(6, 4), torch.arange(6) != 2
    index = build_index(vectors, rankable)
    users = torch.full((2, 4), 1e20)
    users[1, 3] = value
    with pytest.raises(ValueError, match="scores contain NaN"):
        rank_products(users, index, 2)
    vectors[[0, 2]] = value
    users = torch.ones(2, 4)
    assert rank_products(users, build_index(vectors, rankable), 2).items.tolist() == [[1, 3]] * 2
    if not math.isfinite(value):
        vectors[4] = value
        with pytest.raises(ValueError, match="scores contain NaN"):
            build_index(vectors, rankable)


def test_nothing_to_rank_is_no_error() -> None:
    vectors = torch.ones(6, 4)
    nothing = build_index(vectors, torch.zeros(6, dtype=torch.bool))
    assert rank_products(torch.ones(2, 4), nothing, 3).items.tolist() == [[0, 0, 0]] * 2
    index = build_index(vectors, torch.ones(6, dtype=torch.bool))
    assert rank_products(torch.ones(0, 4), index, 3, []).items.shape == (0, 3)
    everything = rank_products(torch.ones(1, 4), index, 3, [np.arange(9)])
    assert everything.items.tolist() == [[0, 0, 0]]
    assert everything.scores.tolist() == [[-math.inf] * 3]


@pytest.mark.parametrize(("shape", "n"), [((2, 4), 0), ((4,), 2), ((2, 5), 2)])
def test_wrong_arguments_are_refused(shape: tuple[int, ...], n: int) -> None:
    index = build_index(torch.ones(6, 4), torch.ones(6, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be"):
        rank_products(torch.zeros(shape), index, n)


def test_seen_of_another_number_of_users_is_refused() -> None:
    index = build_index(torch.ones(6, 4), torch.ones(6, dtype=torch.bool))
    with pytest.raises(ValueError, match="seen has 1 rows"):
        rank_products(torch.zeros(2, 4), index, 1, [np.array([1])])
