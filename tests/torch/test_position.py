"""An epoch goes on with any number of ranks: each row is read once, nothing is skipped."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import load_settings
from recsys.schemas import DataFile, PinnedTable
from recsys.train.feed import FeedOptions, InMemoryFeed
from recsys.train.position import count_steps, open_epoch, plan_schedule, take_over
from recsys.train.state import TrainingState

pytestmark = pytest.mark.torch

LENGTHS = (4, 7)
files = st.lists(st.tuples(st.sampled_from(LENGTHS), st.integers(1, 40)), min_size=4, max_size=12)
parts = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), min_size=1, max_size=5)
"""Numbers of ranks, each with the steps after which it is interrupted."""


def make_feeds(table: PinnedTable, rows: dict[str, np.ndarray], ranks: int) -> list[InMemoryFeed]:
    options = FeedOptions(seed=3, rank=0, ranks=ranks, batch_size=8, shuffle_rows=30, prefetch=2)
    return [
        InMemoryFeed(table, rows, dataclasses.replace(options, rank=rank)) for rank in range(ranks)
    ]


def number_rows(shapes: list[tuple[int, int]]) -> tuple[PinnedTable, dict[str, np.ndarray]]:
    """A table in which each row has a number of its own, from 1, in all of its columns."""
    found, rows, first = [DataFile("v", "validation", LENGTHS[0], 1)], {}, 1
    for i, (bucket, count) in enumerate(shapes):
        found.append(DataFile(f"u{i}", "train", bucket, count))
        numbers = np.arange(first, first + count, dtype=np.int32)
        rows[f"u{i}"] = np.repeat(numbers[:, None], bucket, axis=1)
        first += count
    return PinnedTable("numbered", 1, tuple(found)), rows


def take_steps(state: TrainingState, feeds: list[InMemoryFeed], most: int | None) -> list[int]:
    """The rows of up to ``most`` steps of all ranks; each rank has a batch for each step."""
    left = count_steps(state, feeds[0]) - state.step_in_epoch
    steps = left if most is None else min(left, most)
    taken: list[int] = []
    for feed in feeds:
        with open_epoch(state, feed) as batches:
            for _ in range(steps):
                taken += next(batches).items[:, -1].tolist()
            if steps == left:
                assert next(batches, None) is None
    state.step_in_epoch += steps
    return taken


@settings(deadline=None)
@given(files, parts, st.integers(1, 4))
def test_each_row_once_an_epoch_however_often_the_ranks_change(
    shapes: list[tuple[int, int]], interrupted: list[tuple[int, int]], last: int
) -> None:
    table, rows = number_rows(shapes)
    state, taken = TrainingState(epoch=1), list[int]()
    for ranks, steps in [*interrupted, (last, None)]:
        feeds = make_feeds(table, rows, ranks)
        take_over(state, feeds[0], ranks)
        # As a process does that resumes: what it does not read of a state must not matter.
        state = TrainingState(**dataclasses.asdict(state))
        taken += take_steps(state, feeds, steps)
    assert Counter(taken) == Counter(range(1, 1 + sum(count for _, count in shapes)))
    state.end_epoch()
    assert (state.epoch, state.step_in_epoch, state.takeover) == (2, 0, None)


def test_the_same_number_of_ranks_goes_on_as_if_nothing_had_happened() -> None:
    table, rows = number_rows([(4, 30), (7, 20), (4, 9), (7, 33)])
    feeds = make_feeds(table, rows, 2)
    whole, resumed = TrainingState(ranks=2), TrainingState(ranks=2)
    expected = [take_steps(whole, feeds, 1) for _ in range(count_steps(whole, feeds[0]))]
    for step in expected:
        take_over(resumed, feeds[0], 2)
        assert take_steps(resumed, feeds, 1) == step
    assert resumed.takeover is None


def test_batches_of_a_taken_over_epoch_are_those_of_the_ranks_that_began() -> None:
    table, rows = number_rows([(4, 30), (7, 20), (4, 9), (7, 33)])
    two, one = make_feeds(table, rows, 2), make_feeds(table, rows, 1)
    state = TrainingState(ranks=2)
    expected = Counter(
        tuple(batch.items[:, -1].tolist())
        for feed in two
        for batch in list(feed.epoch(0))[1:]
        if len(batch.items)
    )
    take_steps(state, two, 1)
    take_over(state, one[0], 1)
    with open_epoch(state, one[0]) as batches:
        assert Counter(tuple(batch.items[:, -1].tolist()) for batch in batches) == expected


def test_the_learning_rate_goes_by_the_share_that_is_done() -> None:
    table, rows = number_rows([(4, 64)] * 4)  # 32 batches
    train = load_settings(None, ["train.max_epochs=2", "train.warmup_steps=0"]).train
    one, two = make_feeds(table, rows, 1), make_feeds(table, rows, 2)
    state = TrainingState()
    plain = plan_schedule(state, one[0], train, 1)
    assert (plain.total_steps, plain.ahead) == (64, 0)
    take_over(state, two[0], 2)
    take_steps(state, two, 10)
    state.global_step = 10
    assert plan_schedule(state, two[0], train, 2).ahead == 0
    take_over(state, one[0], 1)
    schedule = plan_schedule(state, one[0], train, 1)
    assert schedule.at(10) == plain.at(20)
    state.epoch, state.step_in_epoch, state.global_step = 2, 0, 54
    assert plan_schedule(state, one[0], train, 1).ahead == 10
