"""Settings of how a model is split over ranks, and what can't be combined with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from recsys.config.section import Section

if TYPE_CHECKING:
    from recsys.config.settings import Settings

_MICRO_BATCHES_A_STAGE = 4
_HOLD_BACK = ("int8", "top_k", "power_sgd")


class Parallel(Section):
    pipeline_stages: int = Field(
        ge=1,
        description="ranks over which the blocks of a transformer are split (pipeline); divides "
        "train.ranks, and what is left of them takes batches of its own; 1: every rank has all",
    )
    micro_batches: int | None = Field(
        ge=1,
        description="parts of a batch that follow each other through the stages, as many as there "
        "are stages at least; null is four a stage",
    )

    @property
    def parts(self) -> int:
        """Micro-batches of a batch. Four a stage: Huang et al. 2019, "GPipe", section 2.3."""
        return self.micro_batches or _MICRO_BATCHES_A_STAGE * self.pipeline_stages

    @property
    def bubble(self) -> float:
        """Share of a step in which a stage has nothing to do, where all stages take as long.

        Source: Huang et al. 2019, "GPipe", section 2.3; the same for 1F1B with a flush (Narayanan
        et al. 2021, "Memory-Efficient Pipeline-Parallel DNN Training", section 3.2).
        """
        idle = self.pipeline_stages - 1
        return idle / (self.parts + idle)


def check_pipeline(settings: Settings) -> None:
    """Refuse a pipeline that the other settings contradict.

    Raises:
        ValueError: it names both settings, their values, and what is allowed.
    """
    train, model = settings.train, settings.model
    parallel, exchange = train.parallel, train.exchange
    stages = parallel.pipeline_stages
    if stages == 1:
        if parallel.micro_batches is not None:
            raise ValueError(
                f"train.parallel.micro_batches={parallel.micro_batches} is for a pipeline: set "
                "train.parallel.pipeline_stages to 2 or more, or micro_batches to null"
            )
        return
    pipeline = f"train.parallel.pipeline_stages={stages}"
    if train.launcher == "single" or train.ranks % stages:
        raise ValueError(
            f"{pipeline} must divide train.ranks={train.ranks}, as each stage is a process of its "
            f"own: set train.ranks to a multiple of {stages}, and train.launcher=horovodrun or "
            f"spark (it is {train.launcher})"
        )
    refused = {
        f"model.kind={model.kind}": (model.kind != "transformer", "transformer"),
        f"train.task={settings.task}": (settings.task != "next_item", "next_item"),
        f"train.min_ranks={train.min_ranks}": (train.elastic, "null: no rank may be missing"),
        f"train.precision={train.precision}": (train.precision == "fp16", "float32 or bf16"),
        f"train.exchange.average_every_steps={exchange.average_every_steps}": (
            exchange.average_every_steps > 1,
            "1: stages step together",
        ),
        f"train.exchange.compression={exchange.compression}": (
            exchange.compression in _HOLD_BACK,
            "none, fp16 or bf16, which hold nothing back",
        ),
        f"train.exchange.rows={exchange.rows}": (exchange.rows == "sparse", "auto or dense"),
    }
    for setting, (is_wanted, allowed) in refused.items():
        if is_wanted:
            raise ValueError(f"{pipeline} can't go with {setting}; allowed: {allowed}")
    if stages > model.blocks:
        raise ValueError(
            f"{pipeline} are more than model.blocks={model.blocks}: each stage has a block at "
            "least; lower the one or raise the other"
        )
    if parallel.parts < stages:
        raise ValueError(
            f"train.parallel.micro_batches={parallel.parts} must be {stages} or more, one for each "
            f"stage of {pipeline}"
        )
    if parallel.parts > train.per_rank_batch_size:
        raise ValueError(
            f"train.parallel.micro_batches={parallel.parts} (null is four a stage) are more than "
            f"train.per_rank_batch_size={train.per_rank_batch_size} windows, of which they are made"
        )
