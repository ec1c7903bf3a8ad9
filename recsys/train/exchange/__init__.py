"""What ranks send each other: gradients whole or compressed, or weights now and then."""

from __future__ import annotations

from torch import nn

from recsys.config import Exchange as Settings
from recsys.models.sparse_tables import sharded_weights, sparse_weights
from recsys.train.communication import Communicator
from recsys.train.exchange.contract import Compressor, Exchange
from recsys.train.exchange.gradients import CompressedGradients, WholeGradients
from recsys.train.exchange.local_steps import LocalSteps
from recsys.train.exchange.power_sgd import PowerSgdSum
from recsys.train.exchange.quantized import Bf16Sum, Int8Sum
from recsys.train.exchange.rows import RowGradients
from recsys.train.exchange.top_k import TopKSum

__all__ = ["Exchange", "make_exchange"]


def make_exchange(settings: Settings, communicator: Communicator, model: nn.Module) -> Exchange:
    """The exchange that the settings name, with tables apart that are sparse or split."""
    exchange = _make_exchange(settings, communicator)
    apart = sparse_weights(model) or sharded_weights(model)
    return RowGradients(communicator, exchange) if apart else exchange


def _make_exchange(settings: Settings, communicator: Communicator) -> Exchange:
    """Of dense gradients; a rank that is alone has nothing to exchange."""
    if communicator.size == 1:
        return Exchange(communicator)
    if settings.average_every_steps > 1:
        return LocalSteps(communicator, settings.average_every_steps, settings.average_delay_steps)
    if settings.compression in ("none", "fp16"):
        return WholeGradients(communicator, half=settings.compression == "fp16")
    return CompressedGradients(communicator, _make_compressor(settings, communicator))


def _make_compressor(settings: Settings, communicator: Communicator) -> Compressor:
    if settings.compression == "bf16":
        return Bf16Sum(communicator)
    if settings.compression == "int8":
        return Int8Sum(communicator)
    if settings.compression == "top_k":
        return TopKSum(communicator, settings.top_k_share)
    return PowerSgdSum(communicator, settings.power_sgd_rank)
