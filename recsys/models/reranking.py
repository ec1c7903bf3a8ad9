"""A list in two stages: a first model finds candidates, the click ranker puts them in order."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.models.click_ranker import ClickRanker
from recsys.models.contract import Inputs


def rerank(
    ranker: ClickRanker, given: Inputs, items: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Candidates in their new order, and their scores, both [users, candidates].

    The score is ``weight`` * log p(click) + (1 - ``weight``) * log p(next), where p(next) is the
    softmax of the first stage's scores over the candidates. With half the weight lists are in the
    order of p(next) * p(click), the chance that an item comes next and is clicked; with the whole
    of it in the order of p(click). A tie keeps the first stage's order.

    Args:
        ranker: says how much its probabilities weigh.
        given: what it looks at.
        items: item_idx, int64 [users, candidates], best first; 0 is no item, and stays behind.
        scores: of the first stage, float [users, candidates].
    """
    weight, real = ranker.config.weight, items > 0
    # A first stage may know items that came after the ranker: to it they are an average item.
    shown = items.masked_fill(items > ranker.config.num_items, 0)
    mixed = weight * ranker.score_candidates(given, shown)
    if weight < 1.0:
        # A user without candidates has nothing to normalise.
        finite = scores.float().masked_fill(~real, torch.finfo(torch.float32).min)
        mixed = mixed + (1.0 - weight) * torch.log_softmax(finite, dim=1)
    mixed = mixed.masked_fill(~real, -torch.inf)
    ordered, places = torch.sort(mixed, dim=1, descending=True, stable=True)
    return items.gather(1, places), ordered
