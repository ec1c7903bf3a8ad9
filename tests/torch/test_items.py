"""Vectors of items with attributes and neighbours, against plain sums."""

import copy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.errors import TrainingError
from recsys.models import SequenceTransformer, TransformerConfig, build_model
from recsys.models.items import ItemTable, Links
from recsys.train.item_links import read_links

pytestmark = pytest.mark.torch

ITEMS, DIMS, ATTRIBUTES = 5, 4, 3
# Item 1 has attributes 0 and 2; 2 and 5 have 1; 3 and 4 none.
ATTRIBUTE_LINKS = Links(
    torch.tensor([0, 0, 2, 3, 3, 3, 4]), torch.tensor([0, 2, 1, 1]), torch.tensor([0.5, 0.5, 1, 1])
)
# 1 -> 2, 4; 2 -> 1; 4 -> 1, 5. Not symmetric, as when each item keeps its nearest alone.
NEIGHBOR_LINKS = Links(
    torch.tensor([0, 0, 2, 3, 3, 5, 5]),
    torch.tensor([2, 4, 1, 1, 5]),
    torch.tensor([0.3, 0.2, 0.7, 0.4, 0.1]),
)


def make(attributes: bool = True, neighbors: bool = True) -> ItemTable:
    torch.manual_seed(0)
    table = ItemTable(
        ITEMS,
        DIMS,
        num_attributes=ATTRIBUTES if attributes else 0,
        attribute_links=4 if attributes else 0,
        neighbor_links=5 if neighbors else 0,
        neighbor_weight=0.5,
    )
    if attributes:
        table.set_links("attribute", ATTRIBUTE_LINKS)
    if neighbors:
        table.set_links("neighbor", NEIGHBOR_LINKS)
    with torch.no_grad():
        table.weight[1:, 0] = torch.arange(5.0)
    return table


def plain(table: ItemTable, neighbors: bool) -> torch.Tensor:
    own = table.weight.clone()
    if table.attribute_embedding is not None:
        attributes = table.attribute_embedding
        own[1] = own[1] + (attributes[0] + attributes[2]) / 2
        own[2], own[5] = own[2] + attributes[1], own[5] + attributes[1]
    if not neighbors:
        return own
    full = own.clone()
    full[1] = own[1] + 0.5 * (0.3 * own[2] + 0.2 * own[4])
    full[2] = own[2] + 0.5 * 0.7 * own[1]
    full[4] = own[4] + 0.5 * (0.4 * own[1] + 0.1 * own[5])
    return torch.cat([own[:, :1], full[:, 1:]], dim=1)


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize("neighbors", [False, True])
@pytest.mark.parametrize("chosen", [None, [0, 1, 3, 4], [5, 2, 2], [3]])
def test_vectors_are_the_plain_sums_with_their_gradients(
    attributes: bool, neighbors: bool, chosen: list[int] | None
) -> None:
    table = make(attributes, neighbors)
    rows = torch.arange(ITEMS + 1) if chosen is None else torch.tensor(chosen)
    expected = plain(table, neighbors)[rows]
    found = table(None if chosen is None else rows)
    torch.testing.assert_close(found, expected)
    weights = list(table.parameters())
    factors = torch.rand_like(expected)
    wanted = torch.autograd.grad((expected * factors).sum(), weights, allow_unused=True)
    got = torch.autograd.grad((found * factors).sum(), weights, allow_unused=True)
    for one, other in zip(got, wanted, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other)


def test_padding_and_biases_are_an_items_own() -> None:
    table = make()
    vectors = table()
    assert not vectors[0].any()
    assert vectors[1:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_in_bf16_vectors_stay_in_full_precision() -> None:
    table = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(table(), make()())


def linked_model() -> SequenceTransformer:
    config = TransformerConfig(
        num_items=ITEMS, max_length=4, dims=DIMS, blocks=1, heads=1, dropout=0.1,
        num_attributes=ATTRIBUTES, attribute_links=4, neighbor_links=5, neighbor_weight=0.5,
    )  # fmt: skip
    model = build_model(config)
    model.item_embedding.set_links("attribute", ATTRIBUTE_LINKS)
    model.item_embedding.set_links("neighbor", NEIGHBOR_LINKS)
    return model.eval()


def test_weights_carry_the_links_along() -> None:
    model = linked_model()
    again = build_model(model.config.to_dict()).eval()
    again.load_state_dict(model.state_dict())
    items = torch.randint(1, ITEMS + 1, (3, 4))
    assert torch.equal(again.item_vectors(), model.item_vectors())
    assert torch.equal(again.encode(items), model.encode(items))
    assert torch.equal(copy.deepcopy(model).item_vectors(), model.item_vectors())


def test_merged_features_score_the_same() -> None:
    model = linked_model()
    merged = model.for_scoring()
    items = torch.randint(1, ITEMS + 1, (3, 4))
    assert torch.equal(merged.item_vectors(), model.item_vectors())
    assert torch.equal(merged.encode(items), model.encode(items))
    assert merged.config.neighbor_links == merged.config.attribute_links == 0
    assert not merged.training


def write(path: Path, item: list[int], linked: list[int], weight: list[float]) -> str:
    columns = {"item_idx": item, "linked": linked, "weight": weight}
    pq.write_table(pa.table(columns), path)
    return path.as_uri()


def test_links_are_read_in_one_order_whatever_the_files(tmp_path: Path) -> None:
    first = write(tmp_path / "a b.parquet", [2, 1], [1, 4], [0.7, 0.2])
    second = write(tmp_path / "ü.parquet", [1, 9, 4], [2, 1, 1], [0.3, 0.9, 0.4])
    for urls in ([first, second], [second, first]):
        found = read_links(urls, ITEMS, {})
        assert found.offsets.tolist() == [0, 0, 2, 3, 3, 4, 4]
        assert found.columns.tolist() == [2, 4, 1, 1]
        assert found.weights.tolist() == pytest.approx([0.3, 0.2, 0.7, 0.4])


def test_a_missing_file_of_links_is_named(tmp_path: Path) -> None:
    url = (tmp_path / "gone.parquet").as_uri()
    with pytest.raises(TrainingError, match="links of items") as caught:
        read_links([url], ITEMS, {})
    assert caught.value.where == url
