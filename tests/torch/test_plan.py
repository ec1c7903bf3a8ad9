"""The plan of an epoch: every row group on one rank, one step count for all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import TrainingError
from recsys.schemas import DataFile
from recsys.train.plan import EpochPlan, count_batches, plan_epoch

pytestmark = pytest.mark.torch

file_lists = st.lists(
    st.tuples(st.sampled_from([9, 17, 51]), st.integers(1, 300)), min_size=1, max_size=30
).map(lambda rows: [DataFile(f"u{i}", "train", b, n) for i, (b, n) in enumerate(rows)])


def plans(files: list[DataFile], ranks: int, epoch: int = 0, batch: int = 16) -> list[EpochPlan]:
    return plan_epoch(files, seed=1, epoch=epoch, ranks=ranks, batch_size=batch)


@given(file_lists, st.integers(1, 4), st.integers(1, 64))
def test_every_row_group_once_and_one_step_count(
    files: list[DataFile], ranks: int, batch: int
) -> None:
    if len(files) < ranks:
        with pytest.raises(TrainingError):
            plans(files, ranks)
        return
    made = plans(files, ranks, batch=batch)
    read = [file.url for plan in made for file in plan.files]
    assert sorted(read) == sorted(file.url for file in files)
    assert all(plan.files for plan in made)
    assert {plan.steps for plan in made} == {max(plan.batches for plan in made)}
    assert [plan.batches for plan in made] == [count_batches(p.files, batch) for p in made]


@given(file_lists, st.integers(1, 4), st.integers(1, 64))
def test_ranks_take_full_batches_of_the_same_bucket_together_and_what_is_left_largest_first(
    files: list[DataFile], ranks: int, batch: int
) -> None:
    made = plans(files, min(ranks, len(files)), batch=batch)
    for plan in made:
        left: dict[int, int] = {}
        for file in plan.files:
            left[file.bucket] = left.get(file.bucket, 0) + file.rows
        sizes = []
        for bucket in plan.buckets:
            sizes.append(min(batch, left[bucket]))
            left[bucket] -= sizes[-1]
        assert not any(left.values())
        assert plan.buckets[: len(plan.common)] == made[0].common
        assert all(size == batch for size in sizes[: len(plan.common)])
        rest = [size * bucket for size, bucket in zip(sizes, plan.buckets, strict=True)]
        assert rest[len(plan.common) :] == sorted(rest[len(plan.common) :], reverse=True)
    totals = [{b: sum(f.rows for f in p.files if f.bucket == b) for b in (9, 17, 51)} for p in made]
    shared = sum(min(total[bucket] // batch for total in totals) for bucket in (9, 17, 51))
    assert len(made[0].common) == shared


def test_batches_are_rounded_up_within_a_bucket() -> None:
    files = [DataFile("a", "train", 9, 10), DataFile("b", "train", 9, 7)]
    assert count_batches([*files, DataFile("c", "train", 17, 1)], 16) == 2 + 1


def test_even_row_groups_are_dealt_evenly() -> None:
    files = [DataFile(f"u{i}", "train", 9 + 8 * (i % 2), 100) for i in range(32)]
    for plan in plans(files, 4):
        assert sum(f.rows for f in plan.files if f.bucket == 9) == 400
        assert plan.batches == plan.steps


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    files = [DataFile(f"u{i}", "train", 9, 10) for i in range(40)]
    assert plans(files, 2) == plans(files, 2)
    assert plans(files, 2)[0].files != plans(files, 2, epoch=1)[0].files
    renamed = [DataFile(f"x{i}", "train", 9, 10) for i in range(40)]
    urls = [file.url[1:] for file in plans(files, 2)[0].files]
    assert urls == [file.url[1:] for file in plans(renamed, 2)[0].files]


def test_too_many_ranks_explain_themselves() -> None:
    with pytest.raises(TrainingError) as caught:
        plans([DataFile("a", "train", 9, 10)] * 3, 4)
    assert "4 readers (train.ranks" in caught.value.what
    assert "3 row groups" in caught.value.what
    assert "gold.min_row_groups to 4" in caught.value.do
