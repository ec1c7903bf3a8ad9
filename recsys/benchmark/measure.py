"""NDCG@10 and HR@10 with one target a user, from lists that the night's ranking made."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.ranking import metrics
from recsys.ranking.top_n import IntArray, flatten

K = 10
PARTS = ("validation", "test")


def measure(
    items: IntArray, scores: npt.NDArray[np.floating[Any]], targets: IntArray
) -> dict[str, float]:
    """``ndcg_at_10`` and ``hr_at_10``, means over users; a tie counts against the target.

    Args:
        items: item_idx [users, 11 or more], best first; one more than 10 shows whether a tie goes
            on behind the list.
        scores: of these, [users, 11 or more].
        targets: item_idx [users].
    """
    ranked = metrics.put_behind_ties(items, scores, targets)
    hits = metrics.find_hits(ranked, flatten(list(targets[:, None])))
    return {
        f"ndcg_at_{K}": round(float(metrics.ndcg(hits, K).mean()), 5),
        f"hr_at_{K}": round(float(metrics.hit_rate(hits, K).mean()), 5),
    }
