"""Scoring and weighing of one cell in this process: stage 2's own functions, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trace_ray.config import Config
from trace_ray.impact.curvature import conjugate_gradients, damped, gauss_newton_product
from trace_ray.impact.gold import PAIR_COLUMNS, choose_gold, choose_retain, tokenize_gold
from trace_ray.impact.gradient import adapter_off_log_probs, gold_gradient
from trace_ray.impact.shard import Selection, loss_gains, score_shard
from trace_ray.impact.weights import impact_summary, raw_weights, weight_scale
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pairs import CONFLICTS, SCORED_SCHEMA, Split
from trace_ray.realign.order import category_counts


def make_direction(model: Any, triaged: pa.Table, config: Config) -> dict[str, torch.Tensor]:
    """Returns v at the model's current adapter, from the gold batch and the RETAIN sample that stage 2 would choose."""
    impact, corrected = config.impact, config.objective.PUNISH.prefer == "corrected"
    pairs, tokenizer = triaged.select(PAIR_COLUMNS), load_chat_tokenizer(config.model)
    gold = tokenize_gold(
        choose_gold([pairs], impact.gold_size, impact.seed, corrected=corrected), tokenizer
    ).to_pylist()
    reference = adapter_off_log_probs(model, gold, impact.batch_tokens)
    summed = gold_gradient(
        model, gold, beta=config.objective.beta, batch_tokens=impact.batch_tokens, reference=reference
    )
    gradient = {name: g / len(gold) for name, g in summed.items()}
    if impact.curvature == "identity":
        return {name: g / impact.gamma for name, g in gradient.items()}
    retain = tokenize_gold(choose_retain([pairs], impact.curvature_pairs, impact.seed), tokenizer).to_pylist()

    def product(vector: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        image = gauss_newton_product(model, retain, vector, batch_tokens=impact.batch_tokens)
        return {name: value / len(retain) for name, value in image.items()}

    apply = damped(product, impact.gamma)
    found = conjugate_gradients(apply, gradient, tolerance=impact.cg_tolerance, iterations=impact.cg_iterations)
    if not found.converged:
        raise RuntimeError(f"residual {found.residuals[-1]:.2g} after {impact.cg_iterations} products")
    return found.vector


def score(model: Any, triaged: pa.Table, direction: Mapping[str, torch.Tensor], config: Config) -> pa.Table:
    """Returns the scored rows without weights, at the model's current adapter, as stage 2's shards hold them.

    Args:
        model: with its adapter, in evaluation mode; frozen while it is scored.
        triaged: training rows are taken, others left out.
    """
    train = triaged.filter(pa.compute.equal(triaged["split"], Split.TRAIN.value))
    conflicts = sum(train["category"].to_pylist().count(c.value) for c in CONFLICTS)
    share = config.impact.retain_per_conflict * conflicts / max(1, train.num_rows - conflicts)
    selection = Selection(config.objective, share, config.impact.seed)
    with _frozen(model):
        return score_shard(train, selection, model, direction, load_chat_tokenizer(config.model), config.impact)


def rescore(
    model: Any, rows: Sequence[dict[str, Any]], direction: Mapping[str, torch.Tensor], config: Config
) -> list[float]:
    """Returns < v, grad l_i > of scored rows at the model's current adapter."""
    with _frozen(model):
        return loss_gains(rows, config.objective, model, direction, config.impact)


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


def weigh(table: pa.Table, config: Config) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the scored rows with their weights, and the impacts' summary by category."""
    weighed = config.objective.weighed
    category = np.array(table["category"].to_pylist(), dtype=object)
    impact = table["impact"].to_numpy()
    counted = np.isin(category, weighed)
    raw = raw_weights(impact, category, config.objective.weights, weighed)
    norm, kind = config.impact.weight_norm, config.objective.weights
    scale = weight_scale(float(raw[counted].sum()), int(counted.sum()), norm, kind) if counted.any() else 1.0
    full = table.append_column("weight", pa.array(np.where(counted, raw * scale, 1.0))).select(SCORED_SCHEMA.names)
    summary = impact_summary({name: impact[category == name] for name in weighed})
    return full, {"impact": summary, "trained": category_counts(category.tolist())}
