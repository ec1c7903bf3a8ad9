"""Tables whose gradients are not exchanged whole.

Those of which a step looks up few rows, and whose gradients hold these rows alone; and those of
which each rank has only a part, with a gradient that is complete.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from recsys.models.contract import Recommender


def set_sparse(model: Recommender, tables: Iterable[str]) -> None:
    """From now on the gradients of some ``row_tables`` are sparse tensors of touched rows."""
    for name in tables:
        model.get_submodule(name).sparse = True  # type: ignore[assignment]


def sparse_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights by name whose gradients are sparse, [rows, width] each, in the model's order."""
    return _weights_of(model, "sparse")


def sharded_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights by name of which this process has only its own rows; sparse or not."""
    return _weights_of(model, "sharded")


def common_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """All other weights by name: whole on every rank, with dense gradients."""
    apart = sparse_weights(model).keys() | sharded_weights(model).keys()
    return {name: weight for name, weight in model.named_parameters() if name not in apart}


def _weights_of(model: nn.Module, kind: str) -> dict[str, nn.Parameter]:
    tables = [name for name, part in model.named_modules() if getattr(part, kind, False)]
    return {f"{name}.weight": model.get_parameter(f"{name}.weight") for name in tables}
