"""Lists as Arrow columns and files: words and numbers for words say the same."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys import schemas
from recsys.lake.worker_files import FileFolder
from recsys.score.lists import Lists
from recsys.score.workers import to_arrow

pytestmark = pytest.mark.torch

ITEMS, USERS, N = 40_000, 50, 6
IDS = pa.array([f"an item with a long name, number {at}" for at in range(ITEMS + 1)])
BOTH = {schemas.ITEM_ID, schemas.REASON}


def make_lists() -> Lists:
    dice = np.random.default_rng(1)
    items = dice.integers(1, ITEMS + 1, (USERS, N))
    items[3, 2:] = 0  # a short list, and none
    items[4] = 0
    scores = dice.standard_normal((USERS, N)).astype(np.float32)
    pinned = np.zeros(items.shape, bool)
    pinned[7, 0] = True
    return Lists(items, scores, dice.random(items.shape) < 0.5, pinned)


def test_numbered_words_are_the_words() -> None:
    lists = make_lists()
    words = to_arrow(lists, IDS).to_pylist()
    assert to_arrow(lists, IDS, BOTH).to_pylist() == words
    assert [len(own) for own in words] == [6, 6, 6, 2, 0, *[6] * 45]
    assert words[0][0]["item_id"] == IDS[lists.items[0, 0]].as_py()
    assert words[7][0]["reason"] == schemas.PINNED_REASON
    kinds = {False: schemas.POPULAR_REASON, True: schemas.MODEL_REASON}
    wanted = [kinds[bool(model)] for model in lists.from_model[0]]
    assert [place["reason"] for place in words[0]] == wanted


@pytest.mark.parametrize("numbered", [(), {schemas.REASON}, BOTH], ids=["words", "reason", "both"])
def test_readers_of_a_file_see_words(tmp_path: Path, numbered: Collection[str]) -> None:
    lists = to_arrow(make_lists(), IDS, numbered)
    users = pa.array([f"u{at:02d}" for at in range(USERS)])
    batch = pa.RecordBatch.from_arrays([users, lists], ["user_id", "recommendations"])
    folder = FileFolder(f"file:{tmp_path}", filtered_by=["user_id"])
    (file,) = folder.write([batch, batch])
    path = tmp_path / file["file"][0].as_py()
    found = pq.read_table(path)
    assert found.schema.field("recommendations").type == to_arrow(make_lists(), IDS).type
    assert found["recommendations"].to_pylist() == 2 * lists.to_pylist()
    row_group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [row_group.column(at) for at in range(row_group.num_columns)]
    by_name = {column.path_in_schema.rpartition(".")[2]: column for column in columns}
    # The words are more than the 1 MB from which on Arrow would do without a dictionary.
    for name in ("item_id", "reason"):
        assert ("RLE_DICTIONARY" in by_name[name].encodings) == (name in numbered)
        assert by_name[name].statistics is None
