"""What fine-tuning puts between the states of a pre-trained model and the scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_FIRST_SCALE = 0.1


class LinearHead(nn.Module):
    """A linear layer on the states that starts as the identity: the scores stay what they were.

    Labels that are no item (a click, a rating) are predicted by ``scale * score + offset``. The
    scale is positive, so items keep the order of their scores.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dims, dims)
        self.log_scale = nn.Parameter(torch.empty(1))
        self.offset = nn.Parameter(torch.empty(1))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """The identity; predictions start flat, as scores of a softmax are some units apart."""
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        nn.init.constant_(self.log_scale, math.log(_FIRST_SCALE))
        nn.init.zeros_(self.offset)

    def forward(self, hidden: Tensor) -> Tensor:
        """Float [..., dims] -> float [..., dims]."""
        out: Tensor = self.linear(hidden).to(hidden.dtype)
        return out

    def predict(self, scores: Tensor) -> Tensor:
        """Scores, of any shape, on the scale of the labels."""
        return self.log_scale.exp() * scores + self.offset
