"""`recsys train --explain` and `recsys score --explain`: what they take, before they begin."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from datetime import date
from typing import TypeVar

from recsys.cli.options import read_settings
from recsys.config import Exchange, Settings, Train
from recsys.lake.operations import check_schema_version
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.score.explain import Explained
from recsys.score.forecast import Forecast as ListForecast
from recsys.score.forecast import say_seconds
from recsys.steps.context import Context
from recsys.steps.explain import explain_scoring, explain_training
from recsys.train.forecast import Forecast

_MIB = 1 << 20
_Found = TypeVar("_Found")


def explain(options: argparse.Namespace, run_date: date) -> None:
    """Print the forecast of the night's training or scoring."""
    if options.step == "score_users":
        _, scoring = _ask(options, run_date, explain_scoring)
        lines = describe_scoring(scoring)
    else:
        settings, training = _ask(options, run_date, explain_training)
        lines = describe(settings, training)
    print("\n".join(lines), flush=True)


def _ask(
    options: argparse.Namespace, run_date: date, find: Callable[[Context], _Found]
) -> tuple[Settings, _Found]:
    settings, log = read_settings(options)
    title = f"recsys {options.name} --explain {run_date}"
    lake = Lake(build_session(settings, title), settings)
    context = Context(settings, log, run_date, lake)
    with lake.explain_damage():
        check_schema_version(lake)
        context.refresh()
        return settings, find(context)


def describe_scoring(found: Explained) -> list[str]:
    """A line a figure, and at the end what it comes to."""
    forecast = found.forecast
    lines = {
        "users": f"{found.users:,}, in {found.tasks:,} tasks and {found.commits} commits",
        "memory": found.memory,
    }
    if forecast is not None:
        lines |= _describe_costs(forecast)
    for method, decided in ((found.score.method, found.decision), ("auto", found.auto)):
        kind = "approximate" if decided.approximate else "exact"
        lines[f"score.method={method}"] = f"{kind} lists: {decided.reason}"
    return _format(lines)


def _describe_costs(found: ListForecast) -> Mapping[str, str]:
    pairs = found.users * found.candidates
    lines = {
        "candidates": f"{found.candidates:,} × {found.dims} dims",
        "exact": f"{pairs:,} pairs, {say_seconds(found.exact_seconds)} on {found.cores} cores "
        f"(forecast: {found.exact_rate:,.0f} users/s a core in a small run here)",
    }
    trial = found.trial
    if trial is None:
        return lines
    recall = f"{trial.recall.mean:.4f} (at least {trial.recall.low:.4f})"
    tried = f"in a trial on {trial.candidates:,} candidates and {trial.recall.users:,} users"
    if trial.probes:
        lines["approximate"] = (
            f"{say_seconds(trial.build_seconds)} to build, {say_seconds(found.search_seconds)} to "
            f"search on {found.cores} cores, {found.clusters_bytes / _MIB:,.1f} MiB (forecast); "
            f"recall {recall} with {trial.probes} clusters a user {tried}"
        )
    else:
        lines["approximate"] = f"recall {recall} with half of the clusters {tried}: too little"
    return lines


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
    return _format(lines)


def _format(lines: Mapping[str, str]) -> list[str]:
    width = max(map(len, lines)) + 2
    return [f"{name + ':':<{width}}{text}" for name, text in lines.items()]


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
