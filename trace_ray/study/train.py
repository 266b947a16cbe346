"""Scoring, weighing and training of one cell in this process: the stages' own functions without Ray and DeepSpeed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trace_ray.config import Config, ObjectiveConfig
from trace_ray.corpus.noise import noisy_table
from trace_ray.impact.gold import PAIR_COLUMNS, choose_gold, tokenize_gold
from trace_ray.impact.gradient import gold_gradient
from trace_ray.impact.shard import Selection, score_shard
from trace_ray.impact.weights import impact_summary, raw_weights, weight_scale
from trace_ray.models import load_chat_tokenizer, load_model, new_adapter
from trace_ray.pairs import CONFLICTS, SCORED_SCHEMA
from trace_ray.realign.objective import denominators, micro_batch, pair_losses, reduce_losses, sequence_names
from trace_ray.realign.order import Plan, category_counts
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.schedule import make_optimizer

Seconds = dict[str, float]


@dataclass(frozen=True)
class Trained:
    """A realigned model in memory and how it came about."""

    model: Any
    seconds: Seconds
    facts: dict[str, Any]


def score(model: Any, triaged: pa.Table, config: Config, seconds: Seconds) -> tuple[pa.Table, dict[str, Any]]:
    """Returns what training reads (SCORED_SCHEMA) and a summary, as stage 2 makes them.

    Args:
        model: with its initial adapter, in evaluation mode.
        triaged: the judged corpus; the cell's label noise is laid over it here.
    """
    impact, tokenizer = config.impact, load_chat_tokenizer(config.model)
    started = time.monotonic()
    noisy = noisy_table(triaged, config.corpus.noise)
    corrected = config.objective.PUNISH.prefer == "corrected"
    chosen = choose_gold([noisy.select(PAIR_COLUMNS)], impact.gold_size, impact.seed, corrected=corrected)
    gold = tokenize_gold(chosen, tokenizer).to_pylist()
    gradient = gold_gradient(model, gold, beta=config.objective.beta, batch_tokens=impact.batch_tokens)
    direction = {name: g / (len(gold) * impact.gamma) for name, g in gradient.items()}
    seconds["direction"] = time.monotonic() - started
    started = time.monotonic()
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    train = noisy.filter(pa.compute.equal(noisy["split"], "train"))
    conflicts = sum(train["category"].to_pylist().count(c.value) for c in CONFLICTS)
    retain = train.num_rows - conflicts
    selection = Selection(config.objective, impact.retain_per_conflict * conflicts / max(1, retain), impact.seed)
    table = score_shard(train, selection, model, direction, tokenizer, impact)
    for parameter in trainable:
        parameter.requires_grad_(True)
    seconds["scoring"] = time.monotonic() - started
    return weigh(table, config)


def weigh(table: pa.Table, config: Config) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the scored rows with their weights, and the impacts' summary by category."""
    category = np.array(table["category"].to_pylist(), dtype=object)
    impact = table["impact"].to_numpy()
    conflict = np.isin(category, config.objective.weighed)
    raw = raw_weights(impact, category, config.objective.weights, config.objective.weighed)
    norm, kind = config.impact.weight_norm, config.objective.weights
    scale = weight_scale(float(raw[conflict].sum()), int(conflict.sum()), norm, kind) if conflict.any() else 1.0
    weighed = table.append_column("weight", pa.array(np.where(conflict, raw * scale, 1.0))).select(SCORED_SCHEMA.names)
    summary = impact_summary({c.value: impact[category == c.value] for c in CONFLICTS})
    return weighed, {"impact": summary, "trained": category_counts(category.tolist())}


def step_budget(triaged: pa.Table, config: Config) -> int:
    """Returns the optimizer steps of every method on a corpus: as many as its training pairs make in ``realign.epochs``.

    A method that skips a category would else train for fewer steps on the same data; Algorithm 1 draws a batch of each
    category in every step.
    """
    pairs: int = triaged["split"].to_pylist().count("train")
    return config.realign.epochs * -(-pairs // config.realign.batch)


def train(model: Any, scored: pa.Table, config: Config, steps: int) -> None:
    """Trains the adapter for ``steps`` steps as stage 3 does on one worker, over as many epochs as that takes.

    Raises: RuntimeError where a loss is not finite.
    """
    realign, objective = config.realign, config.objective
    every = category_counts(scored["category"].to_pylist())
    rows = scored.filter(pa.array(scored["weight"].to_numpy() > 0)).to_pylist()
    category = tuple(row["category"] for row in rows)
    plan = Plan(
        category=category,
        seed=realign.seed,
        epochs=1,  # not a limit: a step's samples follow from its number, in whatever epoch it falls
        tokens=tuple(longest_sequence(row, objective) for row in rows),
        batch=realign.batch,
        window=realign.length_window,
    )
    weighed = sum(every.get(name, 0) for name in objective.weighed)
    by = denominators(category_counts(category), weighed, plan.batch, objective)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer, schedule = make_optimizer(trainable, realign, steps)
    policy = HybridPolicy(model).train()
    torch.manual_seed(realign.seed)
    for step in range(steps):
        batch = micro_batch([rows[i] for i in plan.step(step)], objective)
        logp_S, kl_S = policy(batch.groups)
        loss = reduce_losses(pair_losses(batch, logp_S, kl_S, objective), by, objective.weighed)
        if not torch.isfinite(loss):
            raise RuntimeError(f"step {step}: the loss is {loss}")
        (loss + 0.0 * logp_S.sum()).backward()
        torch.nn.utils.clip_grad_norm_(trainable, realign.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    policy.eval()


def longest_sequence(row: Mapping[str, Any], objective: ObjectiveConfig) -> int:
    """Returns the tokens of the longest sequence that a scored row's term runs."""
    names = sequence_names(objective, row["category"])
    return len(row["prompt_ids"]) + max(len(row[f"{name}_ids"]) for name in names)


def with_equal_pairs(config: Config, trained: Mapping[str, int]) -> Config:
    """Returns the configuration with alpha_kl such that a RETAIN pair counts as much as a conflict, for preference losses.

    alpha_kl is the strength of an anchor. In the DPO baselines RETAIN pairs are ordinary pairs of one data set, and the
    objective divides each kind by its own number: the ratio of the numbers makes all pairs equal again.
    """
    if config.objective.retain == "pair" or config.objective.RETAIN.loss in ("kl", "skip", "sft"):
        return config
    ratio = trained.get("RETAIN", 0) / max(1, sum(trained.get(c.value, 0) for c in CONFLICTS))
    return replace(config, objective=replace(config.objective, alpha_kl=ratio))


def realign_cell(triaged: pa.Table, config: Config, *, equal_pairs: bool = True) -> Trained:
    """Returns the model of one cell: scored, weighed and trained.

    Args:
        triaged: the judged corpus; equal_pairs: see ``with_equal_pairs``; False leaves both kinds of pairs equal shares.
    """
    seconds: Seconds = {}
    model = new_adapter(load_model(config.model), config.lora, config.impact.seed).eval()
    scored, facts = score(model, triaged, config, seconds)
    started = time.monotonic()
    facts["steps"] = step_budget(triaged, config)
    if equal_pairs:
        config = with_equal_pairs(config, facts["trained"])
    elif config.objective.RETAIN.loss != "kl":
        config = replace(config, objective=replace(config.objective, alpha_kl=1.0, retain="anchor"))
    train(model, scored, config, facts["steps"])
    seconds["training"] = time.monotonic() - started
    return Trained(model, seconds, facts)
