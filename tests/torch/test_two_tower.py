"""Two towers: attributes stand in for what training has not seen; later events change nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys import schemas
from recsys.bundle import load_bundle, load_for_scoring
from recsys.models import Links, TwoTower, TwoTowerConfig, build_model
from recsys.ranking.histories import Histories
from recsys.ranking.neighbors import group_links
from recsys.schemas import TRAIN_SPLIT, VALIDATION_SPLIT, DataFile, PinnedTable
from recsys.score.ranker import rank_histories
from recsys.train.batch import make_batch
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob
from recsys.train.loop import run_training
from recsys.train.rows import Channels
from recsys.train.user_links import read_user_codes
from tests.training_tables import RecordingTracker, Windows, make_job, memory_feed

pytestmark = pytest.mark.torch

CLUSTERS, A_CLUSTER, USERS = 4, 10, 160
ITEMS = CLUSTERS * A_CLUSTER
NEW = ITEMS + CLUSTERS  # a new item of each cluster, and one without attributes after them
CODES = (700, 31, 5, 912)  # of the clusters' words


def cluster_of(item: int) -> int:
    """Of an item of the catalogue; the new ones follow, one a cluster."""
    return (item - 1) // A_CLUSTER if item <= ITEMS else item - ITEMS - 1


def links_of(num_items: int) -> Links:
    """Each item's cluster as its attribute; the last item of all has none."""
    items = np.arange(1, min(num_items, NEW) + 1)
    words = np.array([CODES[cluster_of(int(item))] for item in items])
    return Links(*map(torch.from_numpy, group_links(items, words, np.ones(len(items)), num_items)))


def make_model(**changes: object) -> TwoTower:
    torch.manual_seed(0)
    config = TwoTowerConfig(
        num_items=ITEMS,
        max_length=6,
        dims=16,
        dropout=0.1,
        id_dropout=0.3,
        attribute_buckets=1024,
        attribute_links=ITEMS,
        user_attributes=True,
    )
    model = build_model(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
    assert isinstance(model, TwoTower)
    if model.config.attribute_links:
        model.items.set_links("attribute", links_of(ITEMS))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
        if model.users.attribute_embedding is not None:
            model.users.attribute_embedding.weight[0] = 0.0
    return model.eval()


def write_links(path: Path, *columns: np.ndarray) -> list[str]:
    names = (schemas.ITEM_IDX, schemas.LINKED, schemas.WEIGHT)
    if len(columns) == 2:
        names = (schemas.USER_IDX, schemas.LINKED)
    pq.write_table(pa.table(dict(zip(names, columns, strict=False))), path)
    return [path.as_uri()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """Users stay in the cluster that their attribute says; the order within it is chance."""
    folder, draw = tmp_path_factory.mktemp("towers"), np.random.default_rng(0)
    users = np.arange(1, USERS + 1)
    own = draw.permuted(np.tile(np.arange(A_CLUSTER), (USERS, 1)), axis=1)[:, :7]
    columns = {
        schemas.USER_IDX: users,
        schemas.ITEMS: (own + users[:, None] % CLUSTERS * A_CLUSTER + 1).astype(np.int32),
        schemas.CONTEXT: np.zeros(USERS, dtype=np.int32),
    }
    parts = {TRAIN_SPLIT: slice(0, 120), VALIDATION_SPLIT: slice(120, USERS)}
    contents: Windows = {s: {n: c[at] for n, c in columns.items()} for s, at in parts.items()}
    counts = {TRAIN_SPLIT: 120, VALIDATION_SPLIT: 40}
    files = tuple(DataFile(split, split, 7, rows) for split, rows in counts.items())
    table = PinnedTable(schemas.GOLD_TRAINING_SEQUENCES.name, 1, files)
    job = make_job(
        folder, table, "model.kind=two_tower", "model.attribute_buckets=1024",
        "model.id_dropout=0.3", "train.max_epochs=15", "train.patience=15",
        "train.learning_rate=0.01", "train.exclude_own_items=true",
    )  # fmt: skip
    items = np.arange(1, ITEMS + 1)
    words = np.array([CODES[cluster_of(int(item))] for item in items])
    some = users[users // CLUSTERS % 2 == 0]  # of half the users nothing is known
    told = np.array([CODES[user % CLUSTERS] + 1 for user in some])
    links = {
        schemas.HASHED_LINKS: write_links(folder / "items.parquet", items, words, np.ones(ITEMS)),
        schemas.USER_LINKS: write_links(folder / "users.parquet", some, told),
    }
    job = dataclasses.replace(job, links=links)
    run_training(job, SingleProcess(), RecordingTracker(), memory_feed(contents))
    return job


def rank(job: TrainingJob, items: list[list[int]], codes: list[list[int]], n: int) -> np.ndarray:
    """Lists of the job's model, which is told of the new items."""
    model = load_for_scoring(job.bundle_dir, links_of(NEW + 1))
    histories = Histories(
        [np.array(own, dtype=np.int64) for own in items],
        user_attributes=[np.array(own, dtype=np.int64) for own in codes],
    )
    lists = rank_histories(model, histories, histories.items, np.ones(NEW + 2, np.float32), n)
    return np.where(lists.from_model, lists.items, 0)


def test_a_new_item_ranks_with_those_that_share_its_attribute(trained: TrainingJob) -> None:
    # The users had seven of their cluster's ten items: three are left, and the new one.
    histories = [[cluster * A_CLUSTER + n for n in range(1, 8)] for cluster in range(CLUSTERS)]
    lists = rank(trained, histories, [[]] * CLUSTERS, 4)
    for cluster, found in enumerate(lists):
        assert {cluster_of(int(item)) for item in found} == {cluster}
        assert ITEMS + 1 + cluster in found


def test_a_user_without_history_gets_what_the_attribute_says(trained: TrainingJob) -> None:
    lists = rank(trained, [[]] * CLUSTERS, [[code + 1] for code in CODES], 8)
    for cluster, found in enumerate(lists):
        assert {cluster_of(int(item)) for item in found} == {cluster}


def test_who_has_neither_and_what_has_neither_are_left_to_the_fallback(
    trained: TrainingJob,
) -> None:
    lists = rank(trained, [[], [1]], [[], []], NEW + 1)
    assert not lists[0].any()
    assert set(lists[1]) == set(range(NEW + 1)) - {1}  # NEW + 1 is the one without attributes
    # Without today's items the model knows those of its training alone.
    model = load_for_scoring(trained.bundle_dir)
    assert model.config.num_items == ITEMS


def test_a_bundle_gives_the_same_scores_and_so_does_the_model_for_scoring(
    trained: TrainingJob,
) -> None:
    model = load_bundle(trained.bundle_dir)[0]
    given = {
        "items": torch.tensor([[0, 0, 3, 17], [0, 0, 0, 0]]),
        "user_attributes": torch.tensor([[0, 0], [CODES[2] + 1, 0]]),
    }
    scores = model.score_items(given)
    assert model.knows(given).all()
    torch.testing.assert_close(model.for_scoring().score_items(given), scores)
    again = build_model(model.config.to_dict()).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.score_items(given), scores)
    # The items that there were keep their vectors.
    longer = model.extend_items(links_of(NEW + 1))
    torch.testing.assert_close(longer.score_items(given)[:, : ITEMS + 1], scores)


def test_items_that_were_no_target_go_by_their_attributes(trained: TrainingJob) -> None:
    model = load_bundle(trained.bundle_dir)[0]
    assert isinstance(model, TwoTower)
    assert not model.items.cold[1:].any()
    counts = torch.ones(ITEMS + 1)
    counts[5] = 0
    model.set_popularity(counts)
    before = model.item_vectors()
    with torch.no_grad():
        model.items.weight[5] += 1.0
    assert torch.equal(model.item_vectors(), before)
    assert model.items.known()[5]


def test_later_items_do_not_change_earlier_states() -> None:
    model = make_model()
    items = torch.randint(1, ITEMS + 1, (3, 6))
    codes = torch.tensor([[8, 0], [0, 0], [3, 9]])
    changed = items.clone()
    changed[:, 4:] = items[:, 4:] % ITEMS + 1
    first, second = model(items, None, codes), model(changed, None, codes)
    torch.testing.assert_close(first[:, :4], second[:, :4])
    assert not torch.allclose(first[:, 4:], second[:, 4:])


def test_padding_changes_nothing_and_the_last_state_is_the_users_vector() -> None:
    model = make_model()
    items = torch.randint(1, ITEMS + 1, (3, 5))
    codes = torch.tensor([[8, 0], [0, 0], [3, 9]])
    padded = torch.cat([torch.zeros(3, 1, dtype=torch.int64), items], dim=1)
    states = model(padded, None, codes)
    torch.testing.assert_close(states[:, 1:], model(items, None, codes))
    torch.testing.assert_close(model.encode(items, None, codes), states[:, -1])
    more = torch.cat([items, items.flip(1)], dim=1)
    torch.testing.assert_close(
        model.encode(more, None, codes), model.encode(more[:, -6:], None, codes)
    )
    # Before the first item a state is that of a user who did nothing.
    nobody = model.encode(torch.zeros(3, 1, dtype=torch.int64), None, codes)
    torch.testing.assert_close(states[:, 0], nobody)
    assert not nobody[1].any()
    assert torch.equal(nobody[[0, 2], 0], torch.ones(2))


def test_the_bias_of_an_item_does_not_change_what_it_says_about_a_user() -> None:
    model = make_model()
    items = torch.randint(1, ITEMS + 1, (3, 5))
    before = model.encode(items)
    with torch.no_grad():
        model.items.weight[:, 0] += 3.0
    torch.testing.assert_close(model.encode(items), before)


def test_training_takes_away_ids_and_histories_where_attributes_are_left() -> None:
    model = make_model(id_dropout=0.5, dropout=0.0).train()
    with torch.no_grad():
        model.items.attribute_embedding.zero_()
        dropped = (model.items()[1:] == 0).all(dim=1)
        assert 0.2 < dropped.float().mean() < 0.8
        items, codes = torch.randint(1, ITEMS + 1, (40, 6)), torch.zeros(40, 1, dtype=torch.int64)
        codes[:20] = 7
        vectors = model.item_vectors()
        states = model(items, vectors, codes)
        alone = model.encode(torch.zeros(1, 1, dtype=torch.int64), vectors, codes[:1])
        same = torch.isclose(states, alone, rtol=1e-4, atol=1e-4).all(dim=2)
    assert 0.2 < same[:20].float().mean() < 0.8
    assert not same[20:].any()
    without = make_model(id_dropout=0.5, attribute_links=0).train()
    assert not (without.items()[1:] == 0).all(dim=1).any()
    assert without.extend_items(links_of(NEW)) is without


def test_every_weight_gets_a_gradient() -> None:
    model = make_model().train()
    loss = model(torch.randint(1, ITEMS + 1, (4, 6)), None, torch.full((4, 2), 8)).square().sum()
    (loss + model.item_vectors().sum()).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())  # type: ignore[arg-type]


def test_codes_of_users_are_found_by_index(tmp_path: Path) -> None:
    users, codes = np.array([7, 2, 7, 4]), np.array([9, 3, 1, 5])
    table = read_user_codes(write_links(tmp_path / "users.parquet", users, codes), {})
    assert table.tolist() == [[0, 0], [0, 0], [3, 0], [0, 0], [5, 0], [0, 0], [0, 0], [1, 9]]
    assert table.dtype == np.int32
    rows = np.array([[0, 5, 6, 7, 7, 7], [1, 2, 3, 99, 99, 99]], dtype=np.int32)
    batch = make_batch(rows, None, Channels(user_idx=True), table)
    assert batch.inputs()["user_attributes"].tolist() == [[1, 9], [0, 0]]
    assert set(batch.inputs(("items",))) == set()


@pytest.mark.parametrize("change", [{"kind": "other"}, {"dims": 1}, {"unknown": 1}])
def test_wrong_configurations_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"kind of model|impossible model|two_tower"):
        build_model({**make_model().config.to_dict(), **change})
