"""What runs inside Spark's workers: batches of histories in, batches of lists out."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyspark import SparkFiles
from pyspark.sql import DataFrame

from recsys import schemas
from recsys.lake.worker_files import FILES_DDL, FileFolder
from recsys.ranking.histories import Histories
from recsys.ranking.top_n import IntArray, RowsOf
from recsys.score.device import find_device, move
from recsys.score.lists import Lists
from recsys.score.pack import ScoringPack, load_pack
from recsys.score.ranker import rank_histories

_TYPES = {c.name: c.type for c in schemas.GOLD_TOP_N.columns}
_LIST_DDL = (
    f"{schemas.USER_ID} {_TYPES[schemas.USER_ID]}, "
    f"{schemas.RECOMMENDATIONS} {_TYPES[schemas.RECOMMENDATIONS]}"
)
_COMPARED = (f"{schemas.RECOMMENDATIONS}.list.element.{schemas.RANK}",)
"""Columns of few values that Arrow has to find; other such columns come to it as dictionaries."""
_PLACES_AN_ITEM = 4
"""From so many places of lists an item on, a dictionary of all items is less than what it saves."""
# By whether an item is the model's (0, 1), then of pins.
_REASONS = pa.array([schemas.POPULAR_REASON, schemas.MODEL_REASON, schemas.PINNED_REASON])


def rank_in_workers(users: DataFrame, scorer: Scorer) -> DataFrame:
    """Lists of users, without a shuffle: ``user_id`` and ``recommendations``.

    Args:
        users: ``user_id`` and what the scorer reads of them.
    """
    return users.select(schemas.USER_ID, *scorer.columns).mapInArrow(scorer, _LIST_DDL)


def files_of_lists(url: str, store: Mapping[str, str]) -> FileFolder:
    """How workers write a partition of gold/top_n into the folder ``url``.

    Args:
        store: endpoint and region of its S3 store.
    """
    table = schemas.GOLD_TOP_N
    assert table.compression is not None
    return FileFolder(url, store, table.compression, _COMPARED, table.filtered_by)


def write_in_workers(
    users: DataFrame, scorer: Scorer, folder: FileFolder, model_version: str
) -> DataFrame:
    """Write lists of users into files of gold/top_n, one a task; rows of ``FILES_DDL``.

    Args:
        users: ``user_id`` and what the scorer reads of them.
        folder: from ``files_of_lists``.
        model_version: what the lists' column says.
    """
    writer = FileScorer(scorer, folder, model_version)
    return users.select(schemas.USER_ID, *scorer.columns).mapInArrow(writer, FILES_DDL)


@dataclass(frozen=True)
class Scorer:
    """What runs inside a Spark worker: batches of histories in, batches of lists out.

    Attributes:
        pack: name of the file from ``write_pack``, sent to the executors.
        n: length of the lists.
        events: columns of histories, as ``history_columns`` gives them.
        groups: the column rules_group, if the pack's rules tell users apart.
        device: as ``score.device`` says.
    """

    pack: str
    n: int
    events: tuple[str, ...] = (schemas.ITEMS,)
    groups: tuple[str, ...] = ()
    device: str = "cpu"

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of users beside ``user_id``."""
        return (*self.events, schemas.SEEN_ITEMS, *self.groups)

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for users, lists, item_ids in self.rank(batches):
            yield pa.RecordBatch.from_arrays(
                [users, to_arrow(lists, item_ids)], [schemas.USER_ID, schemas.RECOMMENDATIONS]
            )

    def rank(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Array, Lists, pa.Array]]:
        """Of each batch ``user_id``, string [users]; their lists; item ids, string [items + 1]."""
        pack = _load(SparkFiles.get(self.pack), find_device(self.device))
        for batch in batches:
            given = read_users(batch, self.events)
            lists = rank_histories(
                pack.model, given.histories, given.seen, pack.popularity, self.n, pack.ranker,
                pack.index, pack.rules, given.groups, pack.clusters,
            )  # fmt: skip
            yield batch.column(schemas.USER_ID), lists, pack.item_ids


@dataclass(frozen=True)
class FileScorer:
    """A ``Scorer`` whose lists go into a file; what it gives back is that file."""

    scorer: Scorer
    folder: FileFolder
    model_version: str

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return self.folder.write(self._make(batches))

    def _make(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Rows of gold/top_n, words as numbers where that is less; the same in all batches."""
        numbered: set[str] | None = None
        for users, lists, item_ids in self.scorer.rank(batches):
            if numbered is None:
                many = lists.items.size >= _PLACES_AN_ITEM * len(item_ids)
                numbered = {schemas.REASON, schemas.ITEM_ID} if many else {schemas.REASON}
            column = to_arrow(lists, item_ids, numbered)
            version = pa.DictionaryArray.from_arrays(
                pa.repeat(pa.scalar(0, pa.int8()), len(users)), [self.model_version]
            )
            yield pa.RecordBatch.from_arrays(
                [users, column, version],
                [schemas.USER_ID, schemas.RECOMMENDATIONS, schemas.MODEL_VERSION],
            )


@functools.lru_cache(maxsize=1)
def _load(path: str, device: torch.device) -> ScoringPack:
    """A pack, once a worker process."""
    if device.type == "cpu":
        return load_pack(path)
    return move(load_pack(path, with_index=False), device)


class Users(NamedTuple):
    """Users as ``rank_histories`` takes them."""

    histories: Histories
    seen: Sequence[IntArray]
    groups: IntArray | None


def read_users(batch: pa.RecordBatch, events: Sequence[str]) -> Users:
    """From ``seen_items``, the columns ``events`` and, where there is one, rules_group."""
    columns = {name: batch.column(name) for name in events}
    users = columns.pop(schemas.USER_IDX, None)
    histories = Histories(
        **{name: _rows(column) for name, column in columns.items()},
        user_idx=None if users is None else users.to_numpy(),
    )
    at = batch.schema.get_field_index(schemas.RULES_GROUP)
    groups = batch.column(at).to_numpy() if at >= 0 else None
    return Users(histories, _rows(batch.column(schemas.SEEN_ITEMS)), groups)


def _rows(column: pa.Array) -> RowsOf:
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return RowsOf(offsets, column.flatten().to_numpy(zero_copy_only=False))


def to_arrow(lists: Lists, item_ids: pa.Array, numbered: Collection[str] = ()) -> pa.ListArray:
    """Lists as array<struct<rank, item_id, score, reason>>, without the places that are empty.

    Args:
        lists: of users.
        item_ids: string [items + 1].
        numbered: which of item_id and reason are dictionaries: a file then has numbers for words
            that nobody had to compare.
    """
    real = lists.items > 0
    lengths, whole = real.sum(axis=1), bool(real.all())

    def pick(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.ravel() if whole else values[real]

    ranks = np.broadcast_to(np.arange(1, lists.items.shape[1] + 1, dtype=np.int32), real.shape)

    def say(name: str, words: pa.Array, numbers: npt.NDArray[Any]) -> pa.Array:
        at = pa.array(numbers, pa.int32())
        return pa.DictionaryArray.from_arrays(at, words) if name in numbered else words.take(at)

    reason = lists.from_model.astype(np.int32)
    if lists.pinned is not None:
        reason[lists.pinned] = 2
    entries = pa.StructArray.from_arrays(
        [
            pa.array(pick(ranks)),
            say(schemas.ITEM_ID, item_ids, pick(lists.items).astype(np.int32)),
            pa.array(pick(lists.scores), pa.float32()),
            say(schemas.REASON, _REASONS, pick(reason)),
        ],
        [schemas.RANK, schemas.ITEM_ID, schemas.SCORE, schemas.REASON],
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), entries)
