"""Settings of a training: the feed, the model's shape, and how it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from recsys.config.exchange import Exchange
from recsys.config.parallel import Parallel
from recsys.config.pretraining import Pretraining
from recsys.config.section import Section


class Feed(Section):
    workers: int = Field(ge=1, description="Petastorm reader threads a rank")
    shuffle_buffer_rows: int = Field(ge=1, description="rows a rank holds to shuffle")
    prefetch_batches: int = Field(ge=1, description="batches made ahead of the model")
    stage_dir: str | None = Field(
        description="folder shared by executors and ranks, to which Spark copies the training "
        "files before a training (hdfs:// without libhdfs); null reads them where they lie"
    )


TASKS = {
    "transformer": ("next_item", "pretraining", "purchase", "click", "rating"),
    "two_tower": ("next_item",),
    "matrix_factorization": ("rating",),
    "collaborative_network": ("interaction",),
    "click_ranker": ("click_ranking",),
}
"""What each kind of model can be trained for; the first is ``train.task`` auto."""
FINE_TUNING = ("purchase", "click", "rating")
"""Tasks of the transformer that learn from labels."""


class Model(Section):
    kind: Literal[
        "transformer", "two_tower", "matrix_factorization", "collaborative_network", "click_ranker"
    ] = Field(description="kind of model (docs/models.md)")
    dims: int = Field(ge=8, le=4096, description="width of item vectors and blocks")
    hidden: int = Field(ge=1, description="width of the dense layer of a collaborative_network")
    blocks: int = Field(ge=1, le=64, description="transformer blocks")
    heads: int = Field(ge=1, description="attention heads; divides dims")
    dropout: float = Field(ge=0, lt=1, description="dropout of embeddings and blocks")
    feed_forward: Literal["gelu", "swiglu"] = Field(
        description="inside of a block, four times as wide as dims: GELU, or gated (SwiGLU)"
    )
    gated_residuals: bool = Field(
        description="what a block adds to its input is gated by the input (LiGR)"
    )
    positions: Literal["learned", "rotary", "relative", "none"] = Field(
        description="how the model knows the order of events"
    )
    time_gaps: bool = Field(description="the model knows the time between events")
    event_types: bool = Field(description="the model knows the types of events")
    attributes: bool = Field(
        description="items share the vectors of their attributes, where there are any (two_tower: "
        "always)"
    )
    attribute_buckets: int = Field(
        ge=2,
        le=1 << 24,
        description="rows of two_tower's tables of attributes, one for items and one for users; "
        "words are hashed into them",
    )
    id_dropout: float = Field(
        ge=0,
        lt=1,
        description="share of items (in training, each step) of which two_tower sees the "
        "attributes alone, and of events after which it sees the user's attributes alone",
    )
    head: Literal["none", "linear"] = Field(
        description="linear: states pass a linear layer that starts as the identity (tasks "
        "purchase, click and rating; the last two need it)"
    )
    neighbor_weight: float = Field(
        ge=0,
        description="how much an item's vector takes from items that the same users had; "
        "0 takes nothing",
    )
    neighbors: int = Field(ge=1, description="such items, of each item at most")
    neighbor_window: int = Field(
        ge=1, le=100, description="events of a user that two such items lie apart at most"
    )


class Ranker(Section):
    enabled: bool = Field(
        description="train a click ranker beside the model, which puts the first items of its "
        "lists in order; both become one version"
    )
    candidates: int = Field(ge=1, le=10_000, description="first items of a list that it orders")
    weight: float = Field(
        ge=0,
        le=1,
        description="share of log p(click) in the order, the rest is the model's log p(next); 0.5 "
        "orders by the chance of both, 1 by p(click) alone",
    )
    dims: int = Field(ge=1, le=1024, description="width of the ranker's item vectors")
    cross_layers: int = Field(ge=0, le=8, description="cross layers (DCN-V2)")
    hidden: tuple[int, ...] = Field(
        min_length=1, description="widths of the layers of the deep part beside them"
    )
    dropout: float = Field(ge=0, lt=1, description="dropout of the deep part")
    learning_rate: float = Field(gt=0, description="of train.optimizer, after warm-up")
    weight_decay: float = Field(ge=0, description="as train.weight_decay")
    max_epochs: int = Field(ge=1, description="passes over the windows at most")
    patience: int = Field(ge=1, description="epochs without a better AUC before the end")

    @field_validator("hidden")
    @classmethod
    def _check_widths(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if min(widths) < 1:
            raise ValueError(f"widths must be 1 or more, not {list(widths)}")
        return widths


class Train(Section):
    task: Literal[
        "auto",
        "next_item",
        "pretraining",
        "purchase",
        "click",
        "rating",
        "interaction",
        "click_ranking",
    ] = Field(description="what is learned; auto is the first that the kind of model can learn")
    pretraining: Pretraining = Field(description="learning from all behaviour, without labels")
    label_share: float = Field(
        gt=0,
        le=1,
        description="share of users (by a hash) whose labels train (tasks purchase, click, rating)",
    )
    launcher: Literal["horovodrun", "spark", "single"] = Field(
        description="horovodrun, spark (horovod.spark.run in the executors) or single (one process)"
    )
    ranks: int = Field(ge=1, description="processes that train together")
    hosts: str | None = Field(description="horovodrun's -H, e.g. a:4,b:4; null is this machine")
    min_ranks: int | None = Field(
        ge=1,
        description="a training goes on while so many ranks are left, and with ranks that come "
        "(elastic, horovodrun); null: it ends with the first rank that is lost",
    )
    max_ranks: int | None = Field(
        ge=1, description="ranks of an elastic training at most; null is train.ranks"
    )
    discovery_script: str | None = Field(
        min_length=1,
        description="program that prints the hosts of an elastic training, host:slots a line, as "
        "often as it is asked; null: train.hosts stay",
    )
    commit_every_steps: int = Field(
        ge=1,
        description="steps between two states in memory from which an elastic training goes on",
    )
    stall_timeout_seconds: int = Field(
        ge=1,
        description="ranks that wait so long for another one end and name it; more than rank 0 "
        "needs to write a checkpoint",
    )
    threads_per_rank: int = Field(ge=1, description="CPU threads of a rank")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto takes CUDA where there is one")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        description="of matrix products; auto is bf16 on a GPU and float32 on a CPU"
    )
    seed: int = Field(description="same seed, ranks and table: same weights")
    per_rank_batch_size: int = Field(ge=1, description="windows a rank takes a step")
    per_rank_batch_events: int | None = Field(
        ge=1,
        description="padded events a rank takes a step at most, so that steps of long windows hold "
        "fewer of them; null bounds nothing",
    )
    max_epochs: int = Field(ge=1, description="passes over the windows at most")
    patience: int = Field(ge=1, description="epochs without a better validation before the end")
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        description="adamw decays weights apart from the gradient; sgd has Nesterov momentum"
    )
    learning_rate: float = Field(gt=0, description="of the optimizer, after warm-up")
    learning_rate_scaling: Literal["none", "sqrt", "linear"] = Field(
        description="learning_rate times 1, the root of the number of ranks, or that number: the "
        "batch of all ranks grows with it"
    )
    weight_decay: float = Field(
        ge=0, description="L2 penalty (adam, sgd) or decay a step (adamw) of matrices"
    )
    momentum: float = Field(ge=0, lt=1, description="of sgd")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        description="learning rate after warm-up"
    )
    final_learning_rate_share: float = Field(
        ge=0, le=1, description="share of the learning rate left at the last step of the schedule"
    )
    gradient_accumulation: int = Field(
        ge=1, description="batches whose gradients are added up before a step of the optimizer"
    )
    gradient_clip_norm: float = Field(gt=0, description="largest L2 norm of the gradient")
    weight_average_decay: float = Field(
        ge=0,
        lt=1,
        description="of the moving average of weights that is evaluated and kept; "
        "0 keeps the last weights",
    )
    target_horizon: int = Field(
        ge=1, description="next events of a user that a target is drawn from; 1 is the next one"
    )
    start_from: str | None = Field(
        min_length=1,
        description="weights that a training starts with: champion (the model in charge after the "
        "night before; the schedule is shorter then), or the folder of a bundle; null is chance",
    )
    online: bool = Field(
        description="a training that starts from a model learns from the ratings since that model "
        "alone, and changes what they touch (task rating)"
    )
    online_epochs: int = Field(ge=1, description="passes over new ratings (online)")
    online_pull: float = Field(
        ge=0,
        description="L2 penalty, a rating, of the distance of known rows from where they were "
        "(online)",
    )
    warm_max_epochs: int = Field(
        ge=1, description="max_epochs of a training that starts from the champion"
    )
    warm_learning_rate_share: float = Field(
        gt=0, description="of learning_rate, for a training that starts from the champion"
    )
    start_from_popularity: bool = Field(
        description="item biases start at the items' popularity instead of 0"
    )
    recency_half_life_days: float | None = Field(
        gt=0,
        description="age at which an event counts half as much as one of today; "
        "null counts all alike",
    )
    exclude_own_items: bool = Field(
        description="lists leave out what a user had, so in the loss and in validation of next "
        "items those of the window are neither targets again nor alternatives to one"
    )
    loss: Literal["auto", "softmax", "sampled_softmax", "gbce"] = Field(
        description="auto is the softmax over all items, above sampled_softmax_above_items the "
        "sampled one"
    )
    sampled_softmax_above_items: int = Field(
        ge=1, description="catalogues larger than this train on sampled negatives (loss auto)"
    )
    negatives: int = Field(ge=1, description="sampled negatives a step, shared by the batch")
    negative_popularity: float = Field(
        ge=0,
        le=1,
        description="negatives are drawn by popularity to this power; 0 draws all items alike",
    )
    negatives_per_positive: int = Field(
        ge=1, description="items drawn against each pair of a user and an item (task interaction)"
    )
    factor_regularization: float = Field(
        ge=0, description="L2 penalty of the vectors and biases that a rating touches (task rating)"
    )
    gbce_calibration: float = Field(
        ge=0, le=1, description="t of gBCE: 0 is plain binary cross-entropy, 1 fully calibrated"
    )
    exchange: Exchange = Field(description="what ranks send each other")
    parallel: Parallel = Field(description="how a model is split over ranks")
    checkpoint_dir: str | None = Field(
        description="shared by all ranks; null is <lake.root>/_checkpoints (a local lake)"
    )
    checkpoint_every_steps: int = Field(ge=1, description="steps between two checkpoints")

    @property
    def elastic(self) -> bool:
        """Whether ranks may come and go."""
        return self.min_ranks is not None

    @property
    def most_ranks(self) -> int:
        """Ranks that may train together."""
        return self.max_ranks or self.ranks

    @property
    def readers(self) -> int:
        """Batches of a step: the stages of a pipeline share one."""
        return self.ranks // self.parallel.pipeline_stages
