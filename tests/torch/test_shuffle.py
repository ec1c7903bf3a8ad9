"""The shuffle buffer: nothing lost, nothing twice, full batches while rows come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.train.shuffle import ShuffleBuffer

pytestmark = pytest.mark.torch


def number_rows(groups: list[tuple[int, int]]) -> list[np.ndarray]:
    """Row groups (length, rows) whose rows carry their own number."""
    made, first = [], 0
    for length, rows in groups:
        numbers = np.arange(first, first + rows, dtype=np.int32)
        made.append(np.repeat(numbers[:, None], length, axis=1))
        first += rows
    return made


def order(groups: list[np.ndarray], batch: int, seed: int = 0) -> list[int]:
    """The length of each batch, in a random order."""
    totals: dict[int, int] = {}
    for rows in groups:
        totals[rows.shape[1]] = totals.get(rows.shape[1], 0) + len(rows)
    lengths = [length for length, count in totals.items() for _ in range(-(-count // batch))]
    return [int(length) for length in np.random.default_rng(seed).permutation(lengths)]


def shuffle(groups: list[np.ndarray], capacity: int, batch: int, seed: int = 0) -> list[np.ndarray]:
    buffer = ShuffleBuffer(
        capacity, batch, order(groups, batch, seed), np.random.default_rng(seed + 1)
    )
    return list(buffer.batches(iter(groups)))


@given(
    st.lists(st.tuples(st.sampled_from([3, 5, 8]), st.integers(1, 60)), min_size=1, max_size=12),
    st.integers(1, 150),
    st.integers(1, 20),
)
def test_each_row_once_in_the_planned_number_of_batches(
    groups: list[tuple[int, int]], capacity: int, batch: int
) -> None:
    made = shuffle(number_rows(groups), capacity, batch)
    rows = np.concatenate([part[:, 0] for part in made])
    assert sorted(rows.tolist()) == list(range(sum(rows for _, rows in groups)))
    totals: dict[int, int] = {}
    for length, count in groups:
        totals[length] = totals.get(length, 0) + count
    assert len(made) == sum(-(-count // batch) for count in totals.values())
    for length, count in totals.items():
        partial = [len(p) for p in made if p.shape[1] == length and len(p) < batch]
        assert partial == ([count % batch] if count % batch else [])


@pytest.mark.parametrize("channels", [1, 2])
def test_long_rows_come_fewer_at_a_time(channels: int) -> None:
    groups = number_rows([(4 * channels, 50), (16 * channels, 50), (99 * channels, 3)])
    buffer = ShuffleBuffer(
        40,
        10,
        [4] * 5 + [16] * 13 + [99] * 3,
        np.random.default_rng(1),
        batch_events=64,
        channels=channels,
    )
    sizes: dict[int, list[int]] = {}
    for rows in buffer.batches(iter(groups)):
        sizes.setdefault(rows.shape[1] // channels, []).append(len(rows))
    assert sizes[4] == [10] * 5
    assert sorted(sizes[16]) == [2, *[4] * 12]
    assert sizes[99] == [1] * 3


def test_rows_of_different_groups_mix() -> None:
    made = shuffle(number_rows([(3, 100)] * 4), capacity=400, batch=40)
    assert all(len({row // 100 for row in part[:, 0].tolist()}) >= 3 for part in made)


def test_batches_leave_before_everything_is_read() -> None:
    read = []

    def groups() -> list[np.ndarray]:
        for group in number_rows([(3, 10)] * 6):
            read.append(1)
            yield group

    buffer = ShuffleBuffer(20, 5, [3] * 12, np.random.default_rng(1))
    next(buffer.batches(groups()))
    assert len(read) == 2


def test_batches_come_in_the_order_that_is_asked_for() -> None:
    groups = number_rows([(3, 100), (5, 60), (8, 40)])
    wanted = order(groups, 20)
    buffer = ShuffleBuffer(200, 20, wanted, np.random.default_rng(1))
    assert [part.shape[1] for part in buffer.batches(iter(groups))] == wanted


def test_a_length_that_is_not_there_yet_waits_for_its_rows() -> None:
    groups = number_rows([(3, 20), (3, 20), (5, 20)])
    buffer = ShuffleBuffer(20, 10, [5, 3, 3, 5, 3, 3], np.random.default_rng(1))
    lengths = [part.shape[1] for part in buffer.batches(iter(groups))]
    assert lengths == [3, 3, 3, 5, 5, 3]  # both fives as soon as they can
    buffer = ShuffleBuffer(61, 10, [5, 3, 3, 5, 3, 3], np.random.default_rng(1))
    assert [part.shape[1] for part in buffer.batches(iter(groups))] == [5, 3, 3, 5, 3, 3]


def test_same_seed_same_batches() -> None:
    groups = number_rows([(3, 50), (5, 50), (3, 50)])
    first, again = shuffle(groups, 60, 8), shuffle(groups, 60, 8)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = shuffle(groups, 60, 8, seed=9)
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(first, other, strict=True))
