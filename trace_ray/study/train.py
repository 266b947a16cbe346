"""Training of one cell in this process: stage 3's rows, plan, objective and optimizer, without Ray and DeepSpeed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from trace_ray.config import Config
from trace_ray.model.modes import training_mode
from trace_ray.objective.terms import SequenceGroup, denominators, micro_batch, pair_losses, reduce_losses
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.loop import step_plan
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.schedule import make_optimizer
from trace_ray.runs.artifacts import Run


def step_budget(pairs: int, config: Config) -> int:
    """Returns T_max, or without one the optimizer steps of ``realign.epochs`` over so many pairs.

    Every method of a study gets the same: one that skips a category would else train for fewer steps on the same data.
    """
    realign = config.realign
    return realign.max_steps or realign.epochs * -(-pairs // realign.batch)


class _Timed(HybridPolicy):
    """Counts the CPU seconds of what the KL needs beyond log-probs: the reference's forwards, and both vocabularies."""

    kl_seconds = 0.0

    def references(self, groups: Sequence[SequenceGroup]) -> list[torch.Tensor]:
        started = time.process_time()
        found = super().references(groups)
        self.kl_seconds += time.process_time() - started
        return found

    def token_kls(self, anchored_ND: torch.Tensor, *arguments: Any) -> torch.Tensor:
        started = time.process_time()
        found = super().token_kls(anchored_ND, *arguments)
        self.kl_seconds += time.process_time() - started
        return found


def train(model: Any, scored: pa.Table, config: Config, steps: int, scratch: Run) -> float:
    """Trains the adapter for ``steps`` steps as stage 3 does on one worker, over as many epochs as that takes.

    Args:
        scratch: an empty run folder; the scored rows pass through it, as stage 3 reads them.
    Returns: the CPU seconds that the KL took of it.
    Raises: RuntimeError where a loss is not finite.
    """
    scratch.scored.begin({})
    (scratch.scored.place / "part-0.parquet").write_parquet(scored.select(SCORED_SCHEMA.names).cast(SCORED_SCHEMA))
    scratch.scored.publish(counts={}, seconds=0.0)
    objective, rows = config.objective, TrainingRows(scratch.scored, config.objective)
    plan = step_plan(rows, replace(config, realign=replace(config.realign, epochs=10**6, max_steps=steps)))
    by = denominators(rows.counts, rows.weighed, config.realign.batch, objective, config.realign.shares)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer, schedule = make_optimizer(trainable, config.realign, steps)
    policy = _Timed(model)
    training_mode(policy)
    torch.manual_seed(config.realign.seed)
    for step in range(steps):
        batch = micro_batch(rows.take(plan.step(step)), objective)
        logp_S, kl_S = policy(batch.groups)
        loss = reduce_losses(pair_losses(batch, logp_S, kl_S, objective), by, objective.weighed)
        if not torch.isfinite(loss):
            raise RuntimeError(f"step {step}: the loss is {loss}")
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trainable, config.realign.max_grad_norm or math.inf)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    policy.eval()
    return float(policy.kl_seconds)
