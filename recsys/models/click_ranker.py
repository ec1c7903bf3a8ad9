"""The click ranker: how likely a user clicks an item that is shown, DCN-V2 on their events.

Wang et al. 2021, "DCN V2: Improved Deep & Cross Network", section 3, with the deep part beside
the cross layers ("parallel"). It knows of a pair of user and item: the item's vector, the mean of
the vectors of the user's events, of those that were clicked, and the last one; the products of
these three with the item's; the share of clicks, the number of events, how popular the item is,
and whether the user had it before. All of it is known when lists are made; the hour at which a
list is looked at is not, so the ranker knows no times.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.models.contract import Inputs, Recommender
from recsys.models.dropout import Dropout
from recsys.models.items import ItemTable
from recsys.models.shape import Shape

KIND = "click_ranker"
CLICK = 2
"""Code of the weakest type of event that says the user did more than look (view is 1)."""

_NUMBERS = 4
_PAIRS_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class ClickRankerConfig(Shape):
    """Shape of a ranker, and how lists are re-ranked by it.

    Attributes:
        num_items: largest item_idx.
        max_length: most events of a history it looks at; older ones are dropped.
        dims: width of item vectors.
        cross_layers: cross layers; 0 leaves the deep part alone.
        hidden: widths of the deep part's layers.
        dropout: share of the deep part's outputs dropped in training.
        candidates: first items of a list that are re-ranked.
        weight: share of log p(click) in their scores (see ``reranking``).
        num_attributes, attribute_links: as in ``items.ItemTable``.
    """

    kind: ClassVar[str] = KIND

    num_items: int
    max_length: int
    dims: int
    cross_layers: int
    hidden: tuple[int, ...]
    dropout: float
    candidates: int
    weight: float
    num_attributes: int = 0
    attribute_links: int = 0

    @property
    def looks_at(self) -> tuple[str, ...]:
        """Names of what it needs of a user's events."""
        return ("items", "event_types")


class History(NamedTuple):
    """What is known of users after some of their events.

    Attributes:
        mean, clicked, last: float [..., dims]: the mean vector of the events, of those that were
            clicked (zero where none was), and the vector of the last one.
        clicks: share of the events that were clicked, float [...].
        length: number of events, float [...].
    """

    mean: Tensor
    clicked: Tensor
    last: Tensor
    clicks: Tensor
    length: Tensor


class CrossLayer(nn.Module):
    """x_0 * (W x + b) + x, float [..., width]: features times features of one order more.

    Source: Wang et al. 2021, equation 1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        crossed: Tensor = x0 * self.linear(x) + x
        return crossed


class ClickRanker(Recommender):
    """Logits of a click on an item that is shown to a user.

    Sequences are int [users, length], oldest event first, zeros in front; event types are codes,
    of which those from ``CLICK`` on are clicks. Logits turn into probabilities by ``calibration``,
    float [2]: the sigmoid of slope * logit + bias.
    """

    log_popularity: Tensor
    calibration: Tensor
    config: ClickRankerConfig

    def __init__(self, config: ClickRankerConfig) -> None:
        super().__init__()
        self.config = config
        self.item_embedding = ItemTable(
            config.num_items, config.dims, config.num_attributes, config.attribute_links
        )
        width = 7 * config.dims + _NUMBERS
        self.cross = nn.ModuleList(CrossLayer(width) for _ in range(config.cross_layers))
        layers: list[nn.Module] = []
        below = width
        for above in config.hidden:
            layers += [nn.Linear(below, above), nn.ReLU(), Dropout(config.dropout)]
            below = above
        self.deep = nn.Sequential(*layers)
        self.output = nn.Linear(width + below, 1)
        self.register_buffer("log_popularity", torch.zeros(config.num_items + 1))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    @torch.no_grad()
    def set_popularity(self, counts: Tensor) -> None:
        """Tell it how often each item was shown, float [num_items + 1]."""
        logs = torch.log1p(counts.to(self.log_popularity))
        self.log_popularity[1:] = logs[1:] - logs[1:].mean()

    def forward(self, items: Tensor, event_types: Tensor) -> Tensor:
        """Logits float [users, length - 1] of a click on the second event, the third, ...

        The logit of an event depends on its item and on the events before it. Where there is
        none, or no item, its value means nothing.
        """
        vectors = self._look_up(items)
        before = _shift(_summarise(items, event_types, vectors))
        # In order of items, and of time among equal ones, an item had before follows its like.
        order = items.argsort(dim=1, stable=True)
        ordered = items.gather(1, order)
        again = functional.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
        repeated = torch.zeros_like(again).scatter(1, order, again)[:, 1:]
        return self._judge(before, items[:, 1:], vectors[:, 1:], repeated)

    def score_candidates(self, given: Inputs, candidates: Tensor) -> Tensor:
        """Calibrated log p(click) of some items for each user, float [users, candidates].

        Args:
            given: ``items`` and ``event_types`` of the users.
            candidates: item_idx, int64 [users, candidates]; what 0 gets means nothing.

        Raises:
            ValueError: the types of events are not given.
        """
        if "event_types" not in given:
            raise ValueError("a click ranker needs the type of each event")
        size = max(1, _PAIRS_AT_ONCE // max(1, candidates.shape[1]))
        items, types = (given[name][:, -self.config.max_length :] for name in self.config.looks_at)
        parts = [
            self._score(items[at : at + size], types[at : at + size], candidates[at : at + size])
            for at in range(0, len(candidates), size)
        ]
        return torch.cat(parts) if parts else candidates.float()

    def _score(self, items: Tensor, event_types: Tensor, candidates: Tensor) -> Tensor:
        states = _summarise(items, event_types, self._look_up(items))
        now = History(*(part[:, -1:] for part in states))
        repeated = (candidates[:, :, None] == items[:, None, :]).any(dim=2)
        logits = self._judge(now, candidates, self._look_up(candidates), repeated)
        return self.log_probability(logits)

    def log_probability(self, logits: Tensor) -> Tensor:
        """Log of the calibrated probabilities that belong to logits."""
        return functional.logsigmoid(self.calibration[0] * logits + self.calibration[1])

    def _look_up(self, items: Tensor) -> Tensor:
        vectors = functional.embedding(items, self.item_embedding())
        return vectors * math.sqrt(self.config.dims)

    def _judge(self, known: History, items: Tensor, vectors: Tensor, repeated: Tensor) -> Tensor:
        """Logits float [users, items] of pairs.

        Args:
            known: float [users, items or 1, ...].
            items, vectors, repeated: [users, items] of what is shown: item_idx, vectors, and
                whether the user had it before.
        """
        sides = [part.expand_as(vectors) for part in (known.mean, known.clicked, known.last)]
        numbers = [
            known.clicks.expand_as(items),
            torch.log1p(known.length).expand_as(items),
            self.log_popularity[items],
            repeated.to(vectors.dtype),
        ]
        products = [vectors * side for side in sides]
        features = [vectors, *sides, *products, torch.stack(numbers, dim=-1)]
        x0 = torch.cat(features, dim=-1)
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        logits: Tensor = self.output(torch.cat([x, self.deep(x0)], dim=-1))
        return logits[..., 0].float()

    def knows(self, given: Inputs) -> Tensor:
        """Users with an event, bool [users]."""
        return (given["items"] > 0).any(dim=1)

    def score_items(self, given: Inputs) -> Tensor:
        """Log p(click) of all items, float [users, num_items + 1]."""
        items = given["items"]
        every = torch.arange(self.config.num_items + 1, device=items.device)
        return self.score_candidates(given, every.expand(len(items), -1))

    @torch.no_grad()
    def for_scoring(self) -> ClickRanker:
        """The same ranker with the attributes of each item worked into its vector."""
        if not self.config.attribute_links:
            return self
        plain = dataclasses.replace(self.config, num_attributes=0, attribute_links=0)
        merged = ClickRanker(plain).to(self.log_popularity.device)
        weights = {k: v for k, v in self.state_dict().items() if not k.startswith("item_embedding")}
        merged.load_state_dict(weights, strict=False)
        merged.item_embedding.weight.copy_(self.item_embedding())
        return merged.train(self.training)


def _summarise(items: Tensor, event_types: Tensor, vectors: Tensor) -> History:
    """After each event, itself included: tensors [users, length, ...]; padding has no weight."""
    real = (items > 0).to(vectors.dtype)
    clicked = (event_types >= CLICK).to(vectors.dtype) * real
    length, clicks = real.cumsum(dim=1), clicked.cumsum(dim=1)
    return History(
        mean=(vectors * real[..., None]).cumsum(dim=1) / length.clamp(min=1.0)[..., None],
        clicked=(vectors * clicked[..., None]).cumsum(dim=1) / clicks.clamp(min=1.0)[..., None],
        last=vectors * real[..., None],
        clicks=clicks / length.clamp(min=1.0),
        length=length,
    )


def _shift(states: History) -> History:
    """Of each event but the first: what was known before it."""
    return History(*(part[:, :-1] for part in states))
