"""``recsys benchmark``: protocols of the literature on published data."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from recsys.config import Settings, conf_dir, load_settings


def sequences(options: argparse.Namespace) -> None:
    """``recsys benchmark sequences``: one line of JSON on stdout, progress on stderr."""
    from recsys.benchmark.run import run_sequences

    settings = _read_settings(options)
    _log_to_stderr()
    attributes = Path(options.attributes) if options.attributes else None
    with ExitStack() as stack:
        work = options.work
        if work is None:
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-benchmark-"))
        result = run_sequences(
            Path(options.file), attributes, settings, Path(work), options.baselines
        )
    print(result.as_json())


def scaling(options: argparse.Namespace) -> None:
    """``recsys benchmark scaling``: a line of JSON for each number of ranks, and a plot."""
    from recsys.benchmark.scaling import draw_scaling, log_scaling, run_scaling, write_walks

    settings = _read_settings(options)
    _log_to_stderr()
    results = []
    with tempfile.TemporaryDirectory(prefix="recsys-scaling-") as folder:
        work = Path(folder)
        file = options.file or write_walks(work / "walks.txt", settings.train.seed)
        for result in run_scaling(Path(file), settings, options.ranks, options.epochs, work):
            print(result.as_json(), flush=True)
            results.append(result)
        picture = Path(options.out or work / "scaling.png")
        draw_scaling(results, picture)
        if settings.tracking.uri:
            log_scaling(results, picture, settings)


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    logging.getLogger("py4j").setLevel(logging.WARNING)  # it tells of each connection it closes


def _read_settings(options: argparse.Namespace) -> Settings:
    overrides = list(options.overrides)
    if options.seed is not None:
        overrides.append(f"train.seed={options.seed}")
    return load_settings(options.conf or conf_dir() / "benchmark.yaml", overrides)
