"""Which lists score.method=auto takes: by what was measured, and said in a sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.ranking.approximate import count_clusters
from recsys.ranking.item_index import ItemIndex, build_index
from recsys.ranking.recall import Queries, Recall
from recsys.score import forecast as module
from recsys.score.forecast import Forecast, Trial, forecast
from tests import vectors

pytestmark = pytest.mark.torch

# A million users among ten million items on 8 cores: 2,500 s, or 300 s to build and 625 s.
TRIAL = Trial(100_000, 12, Recall(0.995, 0.992, 2048), 300.0, 200.0)
LARGE = Forecast(1_000_000, 10_000_000, 64, 8, 0.99, 2048, 50.0, TRIAL)


def test_approximate_lists_are_taken_where_they_halve_the_time() -> None:
    decided = LARGE.decide()
    assert decided.approximate
    assert decided.reason == (
        "exact lists for all users take 42 min (forecast), approximate ones 300 s to build an "
        "index and 10 min to search it (forecast)"
    )
    assert not replace(LARGE, trial=replace(TRIAL, build_seconds=700.0)).decide().approximate
    assert "not half of it" in replace(LARGE, trial=replace(TRIAL, rate=90.0)).decide().reason


def test_exact_lists_are_taken_where_there_is_little_to_save_or_nothing_proven() -> None:
    little = replace(LARGE, users=20_000)
    assert little.exact_seconds == 50
    assert little.decide().reason == (
        "exact lists for all users take 50 s (forecast): no index is worth its trouble"
    )
    assert not little.decide().approximate
    few = replace(LARGE, sampled=380, trial=None)
    assert "380 users whom the model knows are too few" in few.decide().reason
    lost = replace(LARGE, trial=replace(TRIAL, probes=0, recall=Recall(0.97, 0.962, 2048)))
    assert lost.obstacle is not None
    assert "a recall of 0.9700 (at least 0.9620) in a trial" in lost.decide().reason
    assert not any(case.decide().approximate for case in (few, lost))


def test_a_forecast_is_measured_on_the_vectors_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries = make(3000)
    monkeypatch.setattr(module, "_TRIED_ITEMS", 1000)
    found = forecast(index, 5, queries, 0.9, 12_345, 4)
    assert (found.users, found.candidates, found.dims, found.sampled) == (12_345, 3000, 8, 400)
    assert found.exact_seconds == 12_345 / found.exact_rate / 4 < 60
    assert found.trial is None, "so quick that nothing was tried"
    for users, thorough in ((12_345, True), (10**12, False)):
        trial = forecast(index, 5, queries, 0.9, users, 4, thorough=thorough).trial
        assert trial is not None
        assert trial.candidates == 1000
        assert 1 <= trial.probes <= count_clusters(1000) // 2
        assert trial.recall.users == 400
        assert 1.0 >= trial.recall.mean > trial.recall.low >= 0.9
        assert trial.build_seconds > 0 < trial.rate


def test_without_users_nothing_is_measured() -> None:
    index, _ = make(300)
    found = forecast(index, 5, [], 0.9, 0, 4, thorough=True)
    assert found.exact_seconds == 0
    assert not found.decide().approximate


def test_the_processs_threads_are_as_before() -> None:
    index, queries = make(300)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    module.use_threads(3)
    try:
        forecast(index, 5, queries, 0.9, 10, 4, thorough=True)
        assert (torch.get_num_threads(), module.use_threads(before)) == (3, 3)
    finally:
        torch.set_num_threads(before)


def make(items: int) -> tuple[ItemIndex, list[Queries]]:
    found, users = vectors.clustered(items, 400, 8)
    index = build_index(found, torch.ones(items + 1, dtype=torch.bool))
    halves = (users[:100], users[100:])
    return index, [Queries(half, [np.array([3])] * len(half), None) for half in halves]
