"""From a job to its untrained model: the settings give the shape, the data the sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from recsys.models import (
    ClickRanker,
    ClickRankerConfig,
    CollaborativeNetwork,
    CollaborativeNetworkConfig,
    MatrixFactorization,
    MatrixFactorizationConfig,
    Recommender,
    SequenceTransformer,
    TransformerConfig,
    TwoTower,
    TwoTowerConfig,
)
from recsys.models.items import ItemTable
from recsys.models.self_supervision import start_from_rates
from recsys.schemas import HASHED_LINKS, USER_LINKS
from recsys.train.item_links import read_links
from recsys.train.job import TrainingJob


def make_model(job: TrainingJob) -> Recommender:
    """The untrained model of a job, of the kind that ``model.kind`` names.

    Raises:
        TrainingError: a file of links can't be read.
    """
    return _MAKERS[job.settings.model.kind](job)


def make_transformer(
    job: TrainingJob, make_table: Callable[..., ItemTable] = ItemTable
) -> SequenceTransformer:
    """With the links that the settings make use of, and an item table by ``make_table``.

    Raises:
        TrainingError: a file of links can't be read.
    """
    settings, store = job.settings.model, job.settings.lake.store
    use = {"attribute": settings.attributes, "neighbor": settings.neighbor_weight > 0}
    links = {
        name: read_links(urls, job.num_items, store)
        for name, urls in job.links.items()
        if use[name]
    }
    counts = {f"{name}_links": len(found) for name, found in links.items()}
    attributes = links["attribute"].columns if "attribute" in links else torch.zeros(0)
    num_attributes = int(attributes.max()) + 1 if len(attributes) else 0
    terms, pretrains = job.settings.train.pretraining, job.settings.task == "pretraining"
    config = TransformerConfig.from_settings(
        settings.model_dump(),
        job.num_items,
        job.max_length,
        num_attributes=num_attributes,
        mask=pretrains and (terms.masked_weight > 0 or terms.contrastive_weight > 0),
        predicted_attributes=num_attributes if pretrains and terms.attribute_weight > 0 else 0,
        neighbor_weight=settings.neighbor_weight if "neighbor" in links else 0.0,
        **counts,
    )
    model = SequenceTransformer(config, make_table)
    for name, found in links.items():
        if len(found):
            model.item_embedding.set_links(name, found)
    if model.attribute_output is not None:
        start_from_rates(model.attribute_output, links["attribute"])
    return model


def _make_factorization(job: TrainingJob) -> Recommender:
    shape = job.settings.model.model_dump()
    config = MatrixFactorizationConfig.from_settings(shape, job.num_items, job.num_users)
    return MatrixFactorization(config)


def _make_network(job: TrainingJob) -> Recommender:
    shape = job.settings.model.model_dump()
    config = CollaborativeNetworkConfig.from_settings(shape, job.num_items, job.num_users)
    return CollaborativeNetwork(config)


def _make_two_tower(job: TrainingJob) -> Recommender:
    """With the attributes that items and users have."""
    urls = job.links.get(HASHED_LINKS)
    links = read_links(urls, job.num_items, job.settings.lake.store) if urls else None
    config = TwoTowerConfig.from_settings(
        job.settings.model.model_dump(),
        job.num_items,
        job.max_length,
        attribute_links=len(links) if links else 0,
        user_attributes=USER_LINKS in job.links,
    )
    model = TwoTower(config)
    if links:
        model.items.set_links("attribute", links)
    return model


def _make_click_ranker(job: TrainingJob) -> Recommender:
    """With the attributes of items, where the settings make use of them."""
    settings, urls = job.settings.ranker, job.links.get("attribute", [])
    links, count = None, 0
    if urls and job.settings.model.attributes:
        links = read_links(urls, job.num_items, job.settings.lake.store)
        count = int(links.columns.max()) + 1 if len(links) else 0
    config = ClickRankerConfig(
        job.num_items,
        job.max_length,
        settings.dims,
        settings.cross_layers,
        settings.hidden,
        settings.dropout,
        settings.candidates,
        settings.weight,
        num_attributes=count,
        attribute_links=len(links) if links else 0,
    )
    model = ClickRanker(config)
    if links:
        model.item_embedding.set_links("attribute", links)
    return model


_MAKERS: dict[str, Callable[[TrainingJob], Recommender]] = {
    "transformer": make_transformer,
    "matrix_factorization": _make_factorization,
    "collaborative_network": _make_network,
    "two_tower": _make_two_tower,
    "click_ranker": _make_click_ranker,
}
