"""Scoring and weighing of one cell in this process: stage 2's own parts, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import torch

from trace_ray.config import Config
from trace_ray.impact.curvature import Vector, gauss_newton_product
from trace_ray.impact.direction import gold_sum, solve
from trace_ray.impact.gold import curvature_sample, gold_batch
from trace_ray.impact.rows import retain_share
from trace_ray.impact.shard import Selection, score_shard
from trace_ray.impact.tally import tally
from trace_ray.impact.weights import impact_summary, weight_rule
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pairs import SCORED_SCHEMA, Split
from trace_ray.realign.order import category_counts
from trace_ray.runs.weights import with_weights


def make_direction(model: Any, triaged: pa.Table, config: Config) -> Vector:
    """Returns v at the model's current adapter, from the gold batch and the RETAIN sample that stage 2 would choose."""
    impact, tokenizer = config.impact, load_chat_tokenizer(config.model)
    gold = gold_batch([triaged], config, tokenizer).to_pylist()
    summed = gold_sum(model, gold, impact, config.objective.beta)
    gradient = {name: value / len(gold) for name, value in summed.items()}
    if impact.curvature == "identity":
        return {name: value / impact.gamma for name, value in gradient.items()}
    retain = curvature_sample([triaged], impact, tokenizer).to_pylist()

    def product(vector: Vector) -> Vector:
        image = gauss_newton_product(model, retain, vector, batch_tokens=impact.tokens)
        return {name: value / len(retain) for name, value in image.items()}

    return solve(gradient, product, impact).vector


def score(model: Any, triaged: pa.Table, direction: Mapping[str, torch.Tensor], config: Config) -> pa.Table:
    """Returns the scored rows without weights, at the model's current adapter, as stage 2's shards hold them.

    Args:
        model: with its adapter, in evaluation mode; frozen while it is scored.
        triaged: training rows are taken, others left out.
    """
    train = triaged.filter(pa.compute.equal(triaged["split"], Split.TRAIN.value))
    share = retain_share(category_counts(train["category"].to_pylist()), config.impact.retain_per_conflict)
    selection = Selection(config.objective, share, config.impact.seed)
    with _frozen(model):
        return score_shard(train, selection, model, direction, load_chat_tokenizer(config.model), config.impact)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def weigh(scores: pa.Table, config: Config) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the scored rows with their weights, in SCORED_SCHEMA, and the impacts' summary and the rows by category."""
    told = tally(scores, [], config.objective.weighed, config.impact.seed, share=1.0)
    weighed = with_weights(scores, weight_rule(told.impacts, config.objective, config.impact))
    facts = {"impact": impact_summary(told.impacts), "trained": category_counts(scores["category"].to_pylist())}
    return weighed.select(SCORED_SCHEMA.names).cast(SCORED_SCHEMA), facts
