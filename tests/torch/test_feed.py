"""The feed with real Parquet files through Petastorm, and its twin in memory."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from petastorm.workers_pool.thread_pool import ThreadPool
from petastorm.workers_pool.ventilator import ConcurrentVentilator

from recsys import schemas
from recsys.errors import TrainingError
from recsys.schemas import PinnedTable
from recsys.train.batch import Batch, Recency
from recsys.train.batch_stream import BatchStream
from recsys.train.feed import FeedOptions, InMemoryFeed, RowGroupFeed, petastorm_feed
from recsys.train.rows import Channels
from tests.training_tables import Windows, make_table, pack_columns

pytestmark = pytest.mark.torch

OPTIONS = FeedOptions(seed=1, rank=0, ranks=1, batch_size=16, shuffle_rows=60, prefetch=3)
RECENCY = Recency(7.0, date(2024, 11, 3))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[PinnedTable, Windows]:
    return make_table(
        tmp_path_factory.mktemp("table") / "of a lake, 100%20=ü",
        files={9: [30, 41, 7, 30], 17: [25, 25, 3]},
        validation={9: [20], 17: [5]},
    )


def options_of(rank: int, ranks: int) -> FeedOptions:
    return dataclasses.replace(OPTIONS, rank=rank, ranks=ranks)


def collect(stream: BatchStream) -> list[Batch]:
    with stream:
        return list(stream)


def rows_of(batches: list[Batch]) -> list[tuple[int, ...]]:
    return sorted(tuple(row) for batch in batches for row in batch.items.tolist())


def expected_rows(table: PinnedTable, contents: Windows, split: str) -> list[tuple[int, ...]]:
    files = [file.url for file in table.files if file.split == split]
    return sorted(tuple(row) for url in files for row in contents[url][schemas.ITEMS].tolist())


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_row_once_an_epoch_over_all_ranks(
    table: tuple[PinnedTable, Windows], ranks: int, epoch: int
) -> None:
    feeds = [petastorm_feed(table[0], options_of(rank, ranks), 1) for rank in range(ranks)]
    parts = [collect(feed.epoch(epoch)) for feed in feeds]
    assert {len(part) for part in parts} == {feeds[0].steps_per_epoch(epoch)}
    everything = [batch for part in parts for batch in part]
    assert rows_of(everything) == expected_rows(*table, split="train")
    validation = [batch for feed in feeds for batch in collect(feed.validation())]
    assert rows_of(validation) == expected_rows(*table, split="validation")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("recency", [None, RECENCY])
def test_petastorm_and_memory_give_the_same_batches(
    table: tuple[PinnedTable, Windows], workers: int, recency: Recency | None
) -> None:
    channels = Channels(hours=recency is not None, event_types=workers == 3)
    options = dataclasses.replace(OPTIONS, recency=recency, channels=channels)
    rows = {url: pack_columns(columns, channels) for url, columns in table[1].items()}
    twin = InMemoryFeed(table[0], rows, options)
    feed = petastorm_feed(table[0], options, workers)
    for epoch in range(2):
        first, second = collect(feed.epoch(epoch)), collect(twin.epoch(epoch))
        for batch, other in zip(first, second, strict=True):
            assert torch.equal(batch.items, other.items)
            assert torch.equal(batch.positions, other.positions)
            assert (batch.weights is None) == (recency is None) == (batch.hours is None)
            if batch.hours is not None and other.hours is not None:
                assert torch.equal(batch.hours, other.hours)
            assert (batch.event_types is None) == (not channels.event_types)
            if batch.event_types is not None:
                expected = 1 + batch.items % 5  # as the tables are made
                assert torch.equal(batch.event_types.long(), expected.where(batch.items > 0, 0))
            if batch.weights is not None and other.weights is not None:
                assert torch.equal(batch.weights, other.weights)
                assert (batch.weights[batch.items > 0] > 0.04).all()  # 30 days are 4.3 halvings


def test_epochs_differ_and_repeat(table: tuple[PinnedTable, Windows]) -> None:
    feed = petastorm_feed(table[0], OPTIONS, 2)
    first, again, other = (
        [batch.items.tolist() for batch in collect(feed.epoch(epoch))] for epoch in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("skip", [0, 1, 5, 11, 100])
def test_a_resumed_epoch_goes_on_where_it_stopped(
    table: tuple[PinnedTable, Windows], skip: int
) -> None:
    for rank in range(2):
        feed = petastorm_feed(table[0], options_of(rank, 2), 1)
        whole = [batch.items.tolist() for batch in collect(feed.epoch(0))]
        rest = [batch.items.tolist() for batch in collect(feed.epoch(0, skip=skip))]
        assert rest == whole[skip:]


def test_a_rank_with_less_to_read_gets_empty_batches(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path, files={9: [100, 10]}, validation={9: [4]})
    parts = [collect(petastorm_feed(table, options_of(rank, 2), 1).epoch(0)) for rank in range(2)]
    assert [len(part) for part in parts] == [7, 7]
    empty = [[len(b.items) == 0 for b in part] for part in parts]
    assert sorted(map(sum, empty)) == [0, 6]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path, files={9: [20, 20]}, validation={9: [4]})
    Path(table.files[0].url.removeprefix("file://")).unlink()
    with pytest.raises(TrainingError, match="can't open") as caught:
        collect(petastorm_feed(table, OPTIONS, 1).epoch(0))
    assert "part-" in caught.value.where
    assert "rebuild gold" in caught.value.do


def test_a_file_with_other_rows_than_planned_is_named(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path, files={9: [20]}, validation={9: [4]})
    wrong = dataclasses.replace(table.files[0], rows=21)
    broken = dataclasses.replace(table, files=(wrong, *table.files[1:]))
    with pytest.raises(TrainingError, match=r"\(20, 9\), the plan says \(21, 9\)"):
        collect(petastorm_feed(broken, OPTIONS, 1).epoch(0))


def test_a_table_without_validation_is_refused(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path, files={9: [20]}, validation={})
    with pytest.raises(TrainingError, match="1 training and 0 validation files"):
        petastorm_feed(table, OPTIONS, 1)


def test_an_end_that_petastorm_announces_too_early_loses_nothing(
    table: tuple[PinnedTable, Windows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widens the gap between two of Petastorm's questions, which a busy machine widens at times:
    "are all results read?" is asked before the first work is handed out, "is all work handed
    out?" after the last (see petastorm_reader)."""
    all_done, hand_out = ThreadPool.all_workers_done, ConcurrentVentilator._ventilate

    def asked_early(pool: ThreadPool) -> bool:
        answer = bool(all_done(pool))
        time.sleep(0.1)
        return answer

    def hand_out_late(ventilator: ConcurrentVentilator) -> None:
        time.sleep(0.05)
        hand_out(ventilator)

    monkeypatch.setattr(ThreadPool, "all_workers_done", asked_early)
    monkeypatch.setattr(ConcurrentVentilator, "_ventilate", hand_out_late)
    assert len(rows_of(collect(petastorm_feed(table[0], OPTIONS, 1).validation()))) == 25


def test_closing_early_stops_all_threads(table: tuple[PinnedTable, Windows]) -> None:
    before = set(threading.enumerate())
    with petastorm_feed(table[0], OPTIONS, 2).epoch(0) as stream:
        next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_errors_of_the_thread_reach_the_model(table: tuple[PinnedTable, Windows]) -> None:
    def read(_: object) -> Iterator[np.ndarray]:
        yield np.ones((40, 9), dtype=np.int32)
        raise OSError("the disk is gone")

    feed = RowGroupFeed(table[0], read, dataclasses.replace(OPTIONS, shuffle_rows=20))  # type: ignore[arg-type]
    with feed.epoch(0) as stream:
        assert len(next(stream).items) == 16
        with pytest.raises(OSError, match="disk is gone"):
            list(stream)
        with pytest.raises(OSError, match="disk is gone"):
            next(stream)


def test_waiting_is_measured() -> None:
    def slow() -> Iterator[np.ndarray]:
        for _ in range(3):
            time.sleep(0.1)
            yield np.ones((2, 4), dtype=np.int32)

    with BatchStream(slow(), prefetch=2) as stream:
        assert len(list(stream)) == 3
    assert 0.25 < stream.waited_seconds < 2.0
    with BatchStream(iter([np.ones((2, 4), dtype=np.int32)] * 2), prefetch=4) as quick:
        time.sleep(0.2)
        assert len(list(quick)) == 2
    assert quick.waited_seconds < 0.1
