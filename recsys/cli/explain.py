"""`recsys train --explain`: memory, traffic and seconds of a training before it begins."""

from __future__ import annotations

import argparse
from datetime import date

from recsys.cli.options import read_settings
from recsys.config import Exchange, Settings, Train
from recsys.lake.operations import check_schema_version
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.explain import explain_training
from recsys.train.forecast import Forecast

_MIB = 1 << 20


def explain(options: argparse.Namespace, run_date: date) -> None:
    """Print the forecast of the night's training."""
    settings, log = read_settings(options)
    lake = Lake(build_session(settings, f"recsys train --explain {run_date}"), settings)
    context = Context(settings, log, run_date, lake)
    with lake.explain_damage():
        check_schema_version(lake)
        context.refresh()
        found = explain_training(context)
    print("\n".join(describe(settings, found)), flush=True)


def describe(settings: Settings, found: Forecast) -> list[str]:
    """A line a figure."""
    weights = found.weights_bytes / _MIB
    lines = {
        "strategy": f"{found.ranks} ranks ({settings.train.launcher}), "
        f"{_strategy(settings.train) if found.ranks > 1 else 'nothing to exchange'}",
        "memory a rank": f"{found.memory_bytes / _MIB:,.0f} MiB at most, of which weights, "
        f"gradients, moments and averages are {found.copies} × {weights:,.1f} MiB",
        "sent a step": f"{found.sent_bytes_per_step / _MIB:,.3f} MiB a rank",
        "steps an epoch": f"{found.steps:,}",
        "seconds an epoch": f"{found.epoch_seconds:,.1f} (compute {found.compute_seconds:,.1f}, "
        f"exchange {found.exchange_seconds:,.1f}), validation not counted",
    }
    return [f"{name + ':':<18}{text}" for name, text in lines.items()]


def _strategy(train: Train) -> str:
    exchange, parallel = train.exchange, train.parallel
    tables = ", item table split by rows" if exchange.tables == "sharded" else ""
    if parallel.pipeline_stages > 1:
        return (
            f"{train.readers} × {parallel.pipeline_stages} stages, {parallel.parts} micro-batches "
            f"(a stage waits {parallel.bubble:.0%} of a step at least), "
            f"{_describe_gradients(exchange)}{tables}"
        )
    return f"{_describe_gradients(exchange)}{tables}"


def _describe_gradients(exchange: Exchange) -> str:
    if exchange.average_every_steps > 1:
        late = f", {exchange.average_delay_steps} late" if exchange.average_delay_steps else ""
        return f"weights averaged every {exchange.average_every_steps} steps{late}"
    if exchange.compression == "none":
        return "whole gradients each step"
    return f"gradients as {exchange.compression} each step"
