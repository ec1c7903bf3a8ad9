"""Leave-one-out: what trains, what is predicted, and files that can't be used."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.benchmark.leave_one_out import cut_windows, split, write_windows
from recsys.benchmark.sequence_file import read_attributes, read_sequences
from recsys.config import load_settings
from recsys.errors import InputError

pytestmark = pytest.mark.core

GOLD = load_settings("conf/benchmark.yaml").gold


def test_items_are_numbered_in_the_order_of_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("7 10 9 100\n\n8 9 b a 9\n")
    found = read_sequences(path)
    assert found.item_ids == ["", "9", "10", "100", "a", "b"]
    assert [items.tolist() for items in found.sequences] == [[2, 1, 3], [1, 5, 4, 1]]
    assert found.num_items == 5


@pytest.mark.parametrize(
    ("content", "message", "line"),
    [
        (b"", "no sequences", ""),
        (b"\n \n", "no sequences", ""),
        (b"1 2 3\n2\n", "user '2' has no items", ":2"),
        (b"1 2 3\n1 4 5\n", "user '1' a second time", ":2"),
        (b"\xff\xfe\x00\x01", "not a text file", ""),
    ],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, content: bytes, message: str, line: str
) -> None:
    path = tmp_path / "set.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_sequences(path)
    assert caught.value.where == f"{path}{line}"
    assert "user item item" in caught.value.do


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.txt", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=message) as caught:
            read_sequences(path)
        assert caught.value.where == str(path)


def test_attributes_follow_the_items(tmp_path: Path) -> None:
    path = tmp_path / "attributes.json"
    path.write_text('{"9": [3, 1, 3], "b": ["x"], "unknown": [5]}')
    found = read_attributes(path, ["", "9", "10", "b"])
    assert [values.tolist() for values in found] == [[], [0, 1], [], [2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1, 2]", "can't be read"), ("{", "can't be read"), ('{"other": [1]}', "none of the items")],
)
def test_attributes_of_another_form_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "attributes.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_attributes(path, ["", "9"])


def test_the_last_items_are_targets_and_short_histories_are_left_out() -> None:
    parts = split([np.array([1, 2, 3, 4]), np.array([5, 6]), np.array([7, 8, 9])])
    assert [items.tolist() for items in parts.train] == [[1, 2], [7]]
    assert (parts.validation.tolist(), parts.test.tolist()) == ([3, 8], [4, 9])
    assert [items.tolist() for items in parts.histories("test")] == [[1, 2, 3], [7, 8]]
    assert parts.left_out == 1
    with pytest.raises(InputError, match="three events"):
        split([np.array([5, 6])])


@given(st.integers(0, 200), st.integers(2, 60))
def test_windows_hold_every_transition_once(events: int, longest: int) -> None:
    windows = list(cut_windows(np.arange(events), longest))
    assert all(2 <= len(window) <= longest for window in windows)
    pairs = Counter(pair for w in windows for pair in itertools.pairwise(w))
    assert pairs == Counter((i, i + 1) for i in range(events - 1))
    if windows:
        assert windows[0][-1] == events - 1  # the newest window is the fullest
        assert len(windows[0]) == min(events, longest)


def test_tables_hold_no_later_item_in_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sequences = [np.arange(1, n + 1) + 1000 * n for n in generator.integers(3, 130, 60)]
    parts = split(sequences)
    table = write_windows(parts, tmp_path, GOLD)
    trained: Counter[tuple[int, int]] = Counter()
    for file in table.files:
        content = pq.read_table(file.url.removeprefix("file://")).to_pydict()
        items = np.array(content["items"])
        assert items.shape == (file.rows, file.bucket)
        for row, context in zip(items, content["context"], strict=True):
            real = row[row > 0].tolist()
            assert row.tolist() == [0] * (file.bucket - len(real)) + real
            if file.split == "validation":
                assert context == len(real) - 1
                assert real[-1] in parts.validation
            else:
                assert context == 0
                trained.update(itertools.pairwise(real))
    expected = Counter(pair for items in parts.train for pair in itertools.pairwise(items))
    assert trained == expected
    rows = sum(file.rows for file in table.files if file.split == "validation")
    assert rows == len(parts.test)
