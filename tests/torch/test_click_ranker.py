"""The click ranker: its layers, what it may see, and the order that it gives to lists."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle import BundleInfo, find_ranker, load_ranker, save_bundle
from recsys.errors import RecsysError
from recsys.models import build_model
from recsys.models.click_ranker import ClickRanker, ClickRankerConfig, CrossLayer
from recsys.models.items import Links
from recsys.models.reranking import rerank
from recsys.ranking.histories import Histories
from recsys.score.ranker import rank_histories
from tests.ranked_users import ITEMS, KNOWN, popularity, random_model

pytestmark = pytest.mark.torch

USERS, LENGTH = 6, 9


def random_ranker(**changes: object) -> ClickRanker:
    config = ClickRankerConfig(
        num_items=KNOWN, max_length=LENGTH, dims=4, cross_layers=2, hidden=(8, 4), dropout=0.1,
        candidates=8, weight=1.0,
    )  # fmt: skip
    torch.manual_seed(1)
    model = build_model(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
    assert isinstance(model, ClickRanker)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        model.item_embedding.weight[0] = 0
    model.set_popularity(torch.arange(KNOWN + 1.0))
    return model.eval()


def windows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(1, KNOWN + 1, (USERS, LENGTH), generator=generator)
    types = torch.randint(1, 6, (USERS, LENGTH), generator=generator)
    empty = torch.arange(LENGTH) < torch.arange(USERS)[:, None]
    return items.masked_fill(empty, 0), types.masked_fill(empty, 0).int()


def test_a_cross_layer_is_that_of_the_paper() -> None:
    layer = CrossLayer(2)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        layer.linear.bias.copy_(torch.tensor([0.5, 1.0]))
    x0, x = torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0])
    # W x + b = (1 - 2 + 0.5, 1 + 1) = (-0.5, 2)
    assert layer(x0, x).tolist() == [2 * -0.5 + 1, 3 * 2 - 1]


def test_all_positions_at_once_are_each_candidate_after_its_history() -> None:
    model, (items, types) = random_ranker(), windows()
    items[2, 5] = items[2, 4] = items[2, 2]  # had before
    together = model(items, types)
    for at in range(1, LENGTH):
        given = {"items": items[:, :at], "event_types": types[:, :at]}
        alone = model.score_candidates(given, items[:, at : at + 1])[:, 0]
        known = items[:, at - 1] > 0
        expected = torch.nn.functional.logsigmoid(together[:, at - 1])
        torch.testing.assert_close(alone[known], expected[known])


def test_no_later_event_changes_an_earlier_logit() -> None:
    model, (items, types) = random_ranker(), windows()
    before = model(items, types)
    for at in range(1, LENGTH):
        changed, other = items.clone(), types.clone()
        changed[:, at] = changed[:, at] % KNOWN + 1
        after = model(changed, types)
        assert torch.equal(before[:, : at - 1], after[:, : at - 1])
        assert not torch.equal(before[:, at - 1], after[:, at - 1])
        other[:, at] = torch.where(types[:, at] > 1, 1, 2)
        after = model(items, other)
        # What came of an event does not even change its own logit: that is the label.
        assert torch.equal(before[:, :at], after[:, :at])


def test_padding_in_front_changes_nothing() -> None:
    model, (items, types) = random_ranker(), windows()
    pad = torch.nn.functional.pad
    torch.testing.assert_close(
        model(pad(items, (3, 0)), pad(types, (3, 0)))[:, 3:], model(items, types)
    )


def test_probabilities_are_calibrated_and_all_items_have_one() -> None:
    model, (items, types) = random_ranker(), windows()
    given = {"items": items, "event_types": types}
    plain = model.score_items(given)
    assert plain.shape == (USERS, KNOWN + 1)
    model.calibration.copy_(torch.tensor([0.5, -1.0]))
    logits = plain - torch.log1p(-plain.exp())
    torch.testing.assert_close(
        model.score_items(given).exp(), torch.sigmoid(0.5 * logits - 1), rtol=1e-3, atol=1e-5
    )
    with pytest.raises(ValueError, match="type of each event"):
        model.score_items({"items": items})


def test_attributes_are_worked_into_the_vectors_for_scoring() -> None:
    model = random_ranker(num_attributes=3, attribute_links=KNOWN)
    offsets = torch.arange(-1, KNOWN + 1).clamp(min=0)
    model.item_embedding.set_links(
        "attribute", Links(offsets, torch.arange(KNOWN) % 3, torch.ones(KNOWN))
    )
    items, types = windows()
    given = {"items": items, "event_types": types}
    merged = model.for_scoring()
    assert merged.config.attribute_links == 0
    torch.testing.assert_close(merged.score_items(given), model.score_items(given))


def candidates() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    items, types = windows()
    found = torch.stack([torch.randperm(KNOWN)[:8] + 1 for _ in range(USERS)])
    found[3, 6:] = 0
    found[4] = 0
    scores = torch.arange(8.0, 0.0, -1.0).repeat(USERS, 1).masked_fill(found == 0, -torch.inf)
    return {"items": items, "event_types": types}, found, scores


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_candidates_are_ordered_by_the_weighted_scores(weight: float) -> None:
    model = random_ranker(weight=weight)
    given, found, scores = candidates()
    items, values = rerank(model, given, found, scores)
    clicks = model.score_candidates(given, found)
    for user in range(USERS):
        real = found[user] > 0
        next_ = torch.log_softmax(scores[user][real], dim=0)
        mixed = weight * clicks[user][real] + (1 - weight) * next_
        order = mixed.argsort(descending=True)
        count = int(real.sum())
        assert items[user, :count].tolist() == found[user][real][order].tolist()
        torch.testing.assert_close(values[user, :count], mixed[order])
        assert not items[user, count:].any()
        assert (values[user, count:] == -torch.inf).all()


def test_what_the_ranker_holds_equal_stays_in_the_first_stage_s_order() -> None:
    model = random_ranker()
    model.calibration.copy_(torch.tensor([0.0, -1.0]))
    given, found, scores = candidates()
    assert torch.equal(rerank(model, given, found, scores)[0], found)


def test_items_that_came_after_the_ranker_are_average_ones() -> None:
    model = random_ranker(weight=1.0)
    given, found, scores = candidates()
    later = found.clone()
    later[0, 2] = KNOWN + 7
    items, values = rerank(model, given, later, scores)
    assert sorted(items[0].tolist()) == sorted(later[0].tolist())
    unknown = model.score_candidates(given, torch.zeros_like(found[:, :1]))[0]
    torch.testing.assert_close(values[0][items[0] == KNOWN + 7], unknown)


def test_lists_are_the_first_stage_s_candidates_in_another_order() -> None:
    model, ranker = random_model(), random_ranker()
    random = np.random.default_rng(3)
    # Histories with items that the models do not know, and a user who had nothing.
    items = [random.integers(1, ITEMS + 1, size) for size in (1, 3, 8, 2, 5, 0)]
    types = [random.integers(1, 6, len(row)) for row in items]
    seen = [np.union1d(row, random.integers(1, ITEMS + 1, 2)) for row in items]
    seen[1] = np.array([i for i in range(1, ITEMS + 1) if i not in (2, 7, 22)])
    histories = Histories(items, event_types=types)
    n, first = 4, ranker.config.candidates
    stage = rank_histories(model, histories, seen, popularity(), first)
    found = rank_histories(model, histories, seen, popularity(), n, ranker)
    assert found.items.shape == (len(items), n)
    moved = 0
    for user in range(len(items)):
        allowed = set(stage.items[user][stage.from_model[user]])
        own, fallback = found.from_model[user], ~found.from_model[user] & (found.items[user] > 0)
        assert set(found.items[user][own]) <= allowed
        assert own.sum() == min(n, len(allowed))
        assert list(own) == sorted(own, reverse=True)  # the fallback stays behind
        ranked = [item for item in found.items[user] if item]
        assert len(set(ranked)) == len(ranked)
        assert not set(ranked) & set(seen[user])
        assert np.isfinite(found.scores[user][own]).all()
        if user != 1:
            assert len(ranked) == n
        moved += list(found.items[user][own]) != list(stage.items[user][: own.sum()])
        assert fallback.sum() + own.sum() == len(ranked)
    assert moved >= 3
    # Of the same items the lists of a ranker without an opinion are the first stage's.
    ranker.calibration.copy_(torch.tensor([0.0, 0.0]))
    same = rank_histories(model, histories, seen, popularity(), n, ranker)
    assert (same.items == stage.items[:, :n]).all()


def test_a_bundle_carries_its_ranker(tmp_path: Path) -> None:
    ranker, info = random_ranker(), BundleInfo("2026-01-01", "f", KNOWN, LENGTH)
    ranker.calibration.copy_(torch.tensor([0.7, -0.2]))
    save_bundle(tmp_path / "r", ranker, info)
    save_bundle(tmp_path / "both", random_model(), info, tmp_path / "r")
    save_bundle(tmp_path / "alone", random_model(), info)
    loaded = load_ranker(tmp_path / "both")
    assert loaded is not None
    assert loaded.config == ranker.config
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in ranker.state_dict().items())
    assert find_ranker(tmp_path / "alone") is None
    assert load_ranker(tmp_path / "alone") is None
    save_bundle(tmp_path / "wrong", random_model(), info, tmp_path / "alone")
    with pytest.raises(RecsysError, match="not of a click ranker"):
        load_ranker(tmp_path / "wrong")
