"""What scoring needs of an executor's memory, told before it starts."""

from __future__ import annotations

from recsys.models import ModelConfig
from recsys.ranking.approximate import building_bytes, clusters_bytes
from recsys.ranking.dense_top_n import MOST_BYTES
from recsys.score.ranker import EVENTS_AT_ONCE, SCORES_AT_ONCE

_ITEM_BYTES = 60  # its id as Arrow has it, row, index and popularity
_ENTRY_BYTES = 60  # of a list: arrays, then Arrow's columns with the id
_EVENT_BYTES = 40
_ENCODER_BYTES = 100  # an event and dim: two blocks took 48 to 98, by kind (measured)
_USERS_A_BATCH = 10_000  # spark.sql.execution.arrow.maxRecordsPerBatch
_PYTHON = 400 * 2**20  # the interpreter with torch and Arrow


def describe_memory(
    config: ModelConfig,
    catalogue: int,
    n: int,
    rules: int = 0,
    *,
    clusters: bool = False,
    gpu: bool = False,
) -> str:
    """A line for the log, by the model's shape.

    Args:
        config: of the model.
        catalogue: largest item_idx of today.
        n: length of the lists, or what rules look at for one.
        rules: bytes of their arrays.
        clusters: lists may be approximate.
        gpu: lists are made on one.
    """
    dims = int(getattr(config, "dims", 0))
    # float32 in the model and, on CPUs, again by rows of the index, and at most two bytes of codes.
    shared = catalogue * ((4 if gpu else 10) * dims + _ITEM_BYTES) + rules
    shared += clusters_bytes(catalogue, dims) if clusters else 0
    batch = _USERS_A_BATCH * (n * _ENTRY_BYTES + config.max_length * _EVENT_BYTES)
    encoder = EVENTS_AT_ONCE * dims * _ENCODER_BYTES
    own = _PYTHON + batch + max(MOST_BYTES, 12 * SCORES_AT_ONCE, encoder)
    more_needed = ""
    if gpu:
        # float32 in the model and by rows of the index, which its building copies once more.
        size = catalogue * (12 * dims + _ITEM_BYTES) + max(MOST_BYTES, 12 * SCORES_AT_ONCE)
        more_needed = f", and about {_in_gib(size)} GiB of its GPU (reckoned, not measured)"
    if clusters:
        size = building_bytes(catalogue, dims)
        more_needed = (
            f"; the driver maps as much and needs {_in_gib(size)} GiB to cluster the items"
        )
    return (
        f"scoring with {catalogue:,} items × {dims} dims needs {_in_gib(shared)} GiB that the "
        f"workers of a machine share, and at most {_in_gib(own)} GiB for each worker (a task)"
        + more_needed
    )


def _in_gib(size: float) -> str:
    return f"{size / 2**30:,.1f}"
