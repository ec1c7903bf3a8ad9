"""What every sequence model must keep: causality, padding, buckets, a configuration."""

import dataclasses
from typing import Any

import pytest
import torch

from recsys.config import load_settings
from recsys.models import SequenceTransformer, TransformerConfig, build_model
from recsys.models.losses import full_softmax_loss

pytestmark = pytest.mark.torch

CONFIG = TransformerConfig(num_items=40, max_length=12, dims=16, blocks=2, heads=2, dropout=0.1)


KINDS: list[dict[str, Any]] = [
    {},
    {"positions": "rotary", "feed_forward": "swiglu"},
    {"positions": "relative", "gated_residuals": True},
    {"positions": "none"},
]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind.values())) or "plain")
def model(request: pytest.FixtureRequest) -> SequenceTransformer:
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(CONFIG, **request.param)).eval()
    if model.relative_bias is not None:
        torch.nn.init.normal_(model.relative_bias.by_distance)
    return model


def test_a_model_of_times_and_types_needs_them_and_looks_back_alone() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, time_gaps=True, event_types=True, positions="none")
    model = build_model(config).eval()
    assert model.relative_bias is not None
    torch.nn.init.normal_(model.relative_bias.by_gap)
    items = torch.randint(1, 41, (3, 6))
    hours, types = torch.randint(0, 900, (3, 6)).sort(dim=1).values, torch.randint(1, 6, (3, 6))
    with pytest.raises(ValueError, match="time of each event"):
        model(items, event_types=types)
    with pytest.raises(ValueError, match="type of each event"):
        model(items, hours=hours)
    found = model(items, hours=hours, event_types=types)
    padding = torch.zeros(3, 4, dtype=torch.int64)
    padded = [torch.cat([padding, part], dim=1) for part in (items, hours, types)]
    again = model(padded[0], hours=padded[1], event_types=padded[2])
    torch.testing.assert_close(again[:, 4:], found)
    # Only the time between events counts, and what comes later changes nothing.
    torch.testing.assert_close(model(items, hours=hours + 5000, event_types=types), found)
    for changed in ({"hours": hours * 40}, {"event_types": types % 5 + 1}):
        other = model(items, **{"hours": hours, "event_types": types, **changed})
        assert not torch.allclose(other[:, -1], found[:, -1])
    later = hours.clone()
    later[:, -1] += 500
    other = model(items, hours=later, event_types=types)
    torch.testing.assert_close(other[:, :-1], found[:, :-1])
    assert not torch.allclose(other[:, -1], found[:, -1])


def test_later_items_do_not_change_earlier_states(model: SequenceTransformer) -> None:
    items = torch.randint(1, 41, (3, 10))
    changed = items.clone()
    changed[:, 6:] = torch.randint(1, 41, (3, 4))
    first, second = model(items), model(changed)
    torch.testing.assert_close(first[:, :6], second[:, :6])
    assert not torch.allclose(first[:, 6:], second[:, 6:])


def test_padding_in_front_changes_nothing(model: SequenceTransformer) -> None:
    items = torch.randint(1, 41, (4, 5))
    for length in (6, 8, 12):
        padded = torch.cat([torch.zeros(4, length - 5, dtype=torch.int64), items], dim=1)
        torch.testing.assert_close(model(padded)[:, -5:], model(items))
        torch.testing.assert_close(model.encode(padded), model.encode(items))
        assert torch.equal(model(padded)[:, :-5], torch.zeros(4, length - 5, 16))


def test_a_user_is_the_state_after_the_last_item(model: SequenceTransformer) -> None:
    items = torch.randint(1, 41, (5, 9))
    items[1, :4] = items[2] = 0
    torch.testing.assert_close(model.encode(items), model(items)[:, -1])


def test_a_batch_may_have_no_users(model: SequenceTransformer) -> None:
    """A rank's share of the last rows is one."""
    nobody = torch.zeros((0, 6), dtype=torch.int64)
    assert model(nobody).shape == (0, 6, 16)
    assert model.encode(nobody).shape == (0, 16)


def test_only_padding_gives_zeros_and_finite_gradients(model: SequenceTransformer) -> None:
    model.train()
    hidden = model(torch.zeros(2, 6, dtype=torch.int64))
    assert torch.equal(hidden, torch.zeros(2, 6, 16))
    mixed = model(torch.tensor([[0, 0, 0], [0, 0, 7]]))
    mixed.square().sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


def test_of_long_histories_the_last_items_count(model: SequenceTransformer) -> None:
    items = torch.randint(1, 41, (2, 20))
    torch.testing.assert_close(model.encode(items), model.encode(items[:, -12:]))


def test_before_training_popularity_alone_decides(model: SequenceTransformer) -> None:
    torch.nn.init.zeros_(model.item_embedding.weight)
    counts = torch.arange(41).flip(0).double()
    model.set_popularity(counts)
    items = torch.randint(1, 41, (3, 5))
    log_shares = torch.log_softmax((model.encode(items) @ model.item_vectors().T)[:, 1:], dim=1)
    expected = torch.log((counts[1:] + 1) / (counts[1:] + 1).sum()).float()
    torch.testing.assert_close(log_shares, expected.expand(3, -1))


def test_the_bias_of_an_item_does_not_change_what_it_says_about_a_user(
    model: SequenceTransformer,
) -> None:
    items = torch.randint(1, 41, (3, 5))
    before = model.encode(items)
    model.set_popularity(torch.arange(41))
    assert torch.equal(model.encode(items), before)
    assert torch.equal(before[:, 0], torch.ones(3))


def test_int32_items_serve_too(model: SequenceTransformer) -> None:
    items = torch.randint(1, 41, (2, 5))
    assert torch.equal(model(items), model(items.int()))


def test_item_vectors_cover_the_catalogue(model: SequenceTransformer) -> None:
    vectors = model.item_vectors()
    assert vectors.shape == (41, 16)
    assert not vectors[0].any()
    assert not vectors[:, 0].any()  # biases start at 0


def test_configuration_returns_from_a_dict() -> None:
    assert TransformerConfig.from_dict(CONFIG.to_dict()) == CONFIG
    settings = load_settings(None, ["model.dims=32", "model.heads=4"]).model
    config = TransformerConfig.from_settings(settings.model_dump(), num_items=9, max_length=5)
    assert (config.dims, config.heads, config.num_items, config.max_length) == (32, 4, 9, 5)


def test_a_model_of_an_earlier_release_is_built_as_it_was() -> None:
    shape = {"num_items": 40, "max_length": 12, "dims": 16, "blocks": 2, "heads": 2}
    former = build_model({"kind": "sasrec", **shape, "dropout": 0.1})
    assert former.config == CONFIG
    block = ["attention_norm", "attention_output", "feed_forward.0", "feed_forward.3",
             "feed_forward_norm", "queries_keys_values"]  # fmt: skip
    expected = {
        *(
            f"blocks.{n}.{part}.{kind}"
            for n in (0, 1)
            for part in block
            for kind in ("weight", "bias")
        ),
        *("item_embedding.weight", "position_embedding"),
        *("output_norm.weight", "output_norm.bias"),
    }
    assert set(former.state_dict()) == expected


@pytest.mark.parametrize("change", [{"kind": "other"}, {"dims": 15}, {"unknown": 1}])
def test_wrong_configurations_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"transformer|impossible model"):
        build_model({**CONFIG.to_dict(), **change})


def test_learns_a_planted_pattern() -> None:
    """Every user walks the catalogue with a step of their own: it takes two items to know it."""
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(CONFIG, dims=32, dropout=0.0))
    generator = torch.Generator().manual_seed(1)

    def walk(users: int) -> torch.Tensor:
        start = torch.randint(0, 40, (users, 1), generator=generator)
        step = torch.randint(1, 5, (users, 1), generator=generator)
        return (start + step * torch.arange(10)) % 40 + 1

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(150):
        items = walk(64)
        hidden, targets = model(items[:, :-1]).flatten(0, 1), items[:, 1:].flatten()
        loss = full_softmax_loss(hidden, model.item_vectors(), targets) / len(targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    items = walk(200)
    with torch.no_grad():
        scores = model.encode(items[:, :-1]) @ model.item_vectors().T
    assert (scores[:, 1:].argmax(dim=1) + 1 == items[:, -1]).float().mean() > 0.95
