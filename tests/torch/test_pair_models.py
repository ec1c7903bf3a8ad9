"""Models of pairs: their formulas by hand, whom they know, and what they forget."""

import numpy as np
import pytest
import torch

from recsys.models import (
    CollaborativeNetwork,
    CollaborativeNetworkConfig,
    MatrixFactorization,
    MatrixFactorizationConfig,
    Recommender,
    build_model,
    read_config,
)
from recsys.models import collaborative_network as network_module
from recsys.models.pairs import forget_users
from recsys.ranking.histories import Histories
from recsys.score.ranker import rank_histories

pytestmark = pytest.mark.torch

CONFIGS = [MatrixFactorizationConfig(12, 9, 8), CollaborativeNetworkConfig(12, 9, 8, 5)]


def trained(config: MatrixFactorizationConfig | CollaborativeNetworkConfig) -> Recommender:
    """A model with weights everywhere but in the rows of padding and of user 4."""
    torch.manual_seed(2)
    model = build_model(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
            if weight.ndim > 1 and len(weight) in (10, 13):
                weight[0] = 0.0
        for name in model.user_tables:
            model.get_parameter(name)[4] = 0.0
    return model.eval()


def test_a_rating_is_mean_biases_and_product() -> None:
    model = MatrixFactorization(MatrixFactorizationConfig(num_items=2, num_users=1, dims=2)).eval()
    with torch.no_grad():
        model.mean[:] = 3.5
        model.user_factors.weight[1] = torch.tensor([1.0, -2.0])
        model.user_biases.weight[1] = 0.25
        model.item_factors.weight[1:] = torch.tensor([[0.5, 0.25], [3.0, 1.0]])
        model.item_biases.weight[1:] = torch.tensor([[-0.5], [0.0]])
    # 3.5 + 0.25 - 0.5 + (1 * 0.5 - 2 * 0.25) = 3.25. Item 2 has no bias, so no rating was ever
    # seen of it: its vector, which would add 1 * 3 - 2 * 1 = 1, does not count: 3.5 + 0.25.
    users, items = torch.tensor([1, 1, 7]), torch.tensor([1, 2, 1])
    # User 7 came later: 3.5 - 0.5.
    assert model(users, items).tolist() == [3.25, 3.75, 3.0]
    scores = model.score_items({"user_idx": torch.tensor([1, 7])})
    assert scores[:, 1:].tolist() == [[3.25, 3.75], [3.0, 3.5]]
    assert model.train()(users, items).tolist() == [3.25, 4.75, 3.0]
    # 1 + 4 + 0.0625 of the user, 0.25 + 0.0625 + 0.25 of item 1.
    assert model.penalize(users[:1], items[:1]).tolist() == [5.625]


def small_network() -> CollaborativeNetwork:
    """Two dims, three hidden: user 1 is (1, 2), item 1 (3, -1), item 2 (0, 1)."""
    model = CollaborativeNetwork(CollaborativeNetworkConfig(2, 1, 2, 3)).eval()
    with torch.no_grad():
        model.user_embedding.weight[1] = torch.tensor([1.0, 2.0])
        model.item_embedding.weight[1:] = torch.tensor([[3.0, -1.0], [0.0, 1.0]])
        # As Keras keeps it: a row an input (user 1, user 2, item 1, item 2), a column an output.
        kernel = torch.tensor([[1.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
        model.hidden.weight.copy_(kernel.T)
        model.hidden.bias.copy_(torch.tensor([0.5, -1.0, 0.0]))
        model.output.weight.copy_(torch.tensor([[2.0, -1.0, 0.5]]))
        model.output.bias.fill_(-0.25)
    return model


def test_the_network_s_numbers_by_hand() -> None:
    # Pair (1, 1), inputs 1, 2, 3, -1:
    #   1 * 1 + 2 * 0.5 + 3 * 0 - 1 * 2 + 0.5 = 0.5
    #   1 * 0 + 2 * 1 + 3 * 1 - 1 * 0 - 1 = 4
    #   1 * -1 + 2 * 0 + 3 * 1 - 1 * 1 + 0 = 1
    #   logit 2 * 0.5 - 1 * 4 + 0.5 * 1 - 0.25 = -2.75
    # Pair (1, 2), inputs 1, 2, 0, 1:
    #   1 + 1 + 0 + 2 + 0.5 = 4.5;  0 + 2 + 0 + 0 - 1 = 1;  -1 + 0 + 0 + 1 + 0 = 0
    #   logit 2 * 4.5 - 1 * 1 + 0.5 * 0 - 0.25 = 7.75
    model, users = small_network(), torch.tensor([1])
    assert model(users, torch.tensor([[1, 2]])).tolist() == [[-2.75, 7.75]]
    scores = model.score_items({"user_idx": users})
    assert scores[:, 1:].tolist() == [[-2.75, 7.75]]


def test_the_network_is_keras_layers_with_the_same_weights() -> None:
    """Embedding, Embedding, Flatten, Concatenate, Dense(relu), Dense(1, sigmoid), and their loss
    binary_crossentropy, said again in numpy with kernels of shape (in, out)."""
    model = trained(CONFIGS[1])
    assert isinstance(model, CollaborativeNetwork)
    weights = {name: w.detach().double().numpy() for name, w in model.named_parameters()}
    kernel, last_kernel = weights["hidden.weight"].T, weights["output.weight"].T
    assert (kernel.shape, last_kernel.shape) == ((2 * 8, 5), (5, 1))

    users, items = np.array([1, 5, 9, 3]), np.array([12, 1, 7, 7])
    happened = np.array([1.0, 0.0, 0.0, 1.0])
    both = np.concatenate(
        [weights["user_embedding.weight"][users], weights["item_embedding.weight"][items]], axis=1
    )
    dense = np.maximum(both @ kernel + weights["hidden.bias"], 0)
    probability = 1 / (1 + np.exp(-(dense @ last_kernel + weights["output.bias"])))[:, 0]
    loss = -np.mean(happened * np.log(probability) + (1 - happened) * np.log(1 - probability))

    with torch.no_grad():
        logits = model(torch.from_numpy(users), torch.from_numpy(items)[:, None])[:, 0]
    np.testing.assert_allclose(torch.sigmoid(logits).numpy(), probability, rtol=1e-5)
    found = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.from_numpy(happened).float()
    )
    assert float(found) == pytest.approx(loss, rel=1e-5)


def test_chunks_do_not_change_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = trained(CONFIGS[1]), {"user_idx": torch.arange(1, 10)}
    whole = model.score_items(given)
    for held in (5, 20, 65, 200):
        monkeypatch.setattr(network_module, "_HELD_AT_ONCE", held)
        torch.testing.assert_close(model.score_items(given), whole)
    pairs = model(given["user_idx"], torch.arange(13).expand(9, -1))
    torch.testing.assert_close(pairs, whole)


@pytest.mark.parametrize("config", CONFIGS)
def test_shapes_return_and_impossible_ones_are_refused(
    config: MatrixFactorizationConfig | CollaborativeNetworkConfig,
) -> None:
    assert read_config(config.to_dict()) == config
    assert (config.looks_at, config.max_length) == (("user_idx",), 1)
    with pytest.raises(ValueError, match=f"not a configuration of a {config.kind}"):
        read_config({**config.to_dict(), "heads": 2})
    with pytest.raises(ValueError, match="impossible model"):
        read_config({**config.to_dict(), "num_users": 0})


@pytest.mark.parametrize("config", CONFIGS)
def test_unknown_users_get_the_fallback(
    config: MatrixFactorizationConfig | CollaborativeNetworkConfig,
) -> None:
    """User 4 was never trained on, 10 came later; both had items, which these models don't see."""
    model = trained(config)
    fresh = build_model(config).eval()
    users = np.array([1, 4, 9, 10])
    assert model.knows({"user_idx": torch.from_numpy(users)}).tolist() == [True, False, True, False]
    assert not fresh.knows({"user_idx": torch.arange(10)}).any()
    histories = Histories([np.array([1, 2])] * 4, user_idx=users)
    popularity = np.arange(14, dtype=np.float32)  # item 13 is newer than the model
    lists = rank_histories(model, histories, [np.array([1, 2])] * 4, popularity, 5)
    assert lists.from_model.all(axis=1).tolist() == [True, False, True, False]
    assert lists.items[1].tolist() == lists.items[3].tolist() == [13, 12, 11, 10, 9]
    assert not lists.from_model[[1, 3]].any()


@pytest.mark.parametrize("config", CONFIGS)
def test_forgetting_zeroes_all_that_is_a_users_and_nothing_else(
    config: MatrixFactorizationConfig | CollaborativeNetworkConfig,
) -> None:
    model, before = trained(config), trained(config)
    assert forget_users(model, [2, 4, 9, 77]) == 2
    for name, weight in model.named_parameters():
        other = before.get_parameter(name)
        if name in model.user_tables:
            assert not weight[[0, 2, 4, 9]].any()
            kept = [1, 3, 5, 6, 7, 8]
            assert torch.equal(weight[kept], other[kept])
        else:
            assert torch.equal(weight, other)
    assert not model.knows({"user_idx": torch.tensor([2, 9])}).any()
    assert forget_users(model, [2, 9]) == 0
