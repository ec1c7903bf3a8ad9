"""Settings of what ranks send each other while they train together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys.config.section import Section


class Exchange(Section):
    compression: Literal["none", "fp16", "bf16", "int8", "top_k", "power_sgd"] = Field(
        description="of gradients on their way between ranks (docs/distributed-training.md)"
    )
    top_k_share: float = Field(
        gt=0, le=1, description="share of a gradient's entries that are sent (top_k)"
    )
    power_sgd_rank: int = Field(
        ge=1, description="rank of the matrices that stand for a gradient (power_sgd)"
    )
    rows: Literal["dense", "sparse", "auto"] = Field(
        description="gradients of tables of items and users: as large as the table, or the rows "
        "that a step touches (losses that sample, pairs), whose moments and weight decay then move "
        "only when they are touched; auto is sparse where that is a tenth of a table at most"
    )
    tables: Literal["replicated", "sharded"] = Field(
        description="where the item table is: whole on every rank, or split by rows over the ranks "
        "(transformer, task next_item), whose memory then falls with their number"
    )
    average_every_steps: int = Field(
        ge=1,
        description="1 adds gradients up over ranks each step; more: ranks train alone and average "
        "their weights after so many steps (local SGD)",
    )
    average_delay_steps: int = Field(
        ge=0,
        description="steps that ranks go on with while an average is on its way (local SGD); less "
        "than average_every_steps",
    )
    fusion_mb: int | None = Field(
        ge=0,
        description="MiB of gradients that Horovod sends as one message; 0 fuses none, null is "
        "Horovod's 128",
    )
    cycle_ms: float | None = Field(
        gt=0,
        description="milliseconds between two looks of Horovod at what is ready to be sent; null "
        "is 5 on CPUs, and Horovod's 1 on GPUs, with split tables, a pipeline or elastic training",
    )

    @model_validator(mode="after")
    def _check_strategy(self) -> Exchange:
        if self.average_delay_steps >= self.average_every_steps:
            raise ValueError(
                f"average_delay_steps={self.average_delay_steps} must be less than "
                f"average_every_steps={self.average_every_steps}: an average is there before the "
                "next one is asked for"
            )
        if self.average_every_steps > 1 and self.compression != "none":
            raise ValueError(
                f"compression={self.compression} is of gradients, and with "
                f"average_every_steps={self.average_every_steps} ranks send none; set one of them"
            )
        if self.average_every_steps > 1 and self.rows == "sparse":
            raise ValueError(
                f"rows=sparse is of gradients, and with average_every_steps="
                f"{self.average_every_steps} ranks send none; set rows=auto"
            )
        if self.average_every_steps > 1 and self.tables == "sharded":
            raise ValueError(
                "tables=sharded needs the gradients of all ranks in each step, and with "
                f"average_every_steps={self.average_every_steps} they step alone; set one of them"
            )
        return self
