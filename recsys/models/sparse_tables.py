"""Tables of which a step looks up few rows, and whose gradients then hold these rows alone."""

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
    tables = [name for name, part in model.named_modules() if getattr(part, "sparse", False)]
    return {f"{name}.weight": model.get_parameter(f"{name}.weight") for name in tables}


def dense_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """All other weights by name."""
    sparse = sparse_weights(model)
    return {name: weight for name, weight in model.named_parameters() if name not in sparse}
