"""Training of one cell in this process: stage 3's training with torch's optimizer in DeepSpeed's place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from trace_ray.config import ObjectiveConfig, RealignConfig
from trace_ray.model.flat import runs_flat
from trace_ray.model.sharing import sharing_rule
from trace_ray.objective.batch import SequenceGroup
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.engine import PlainEngine
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.training import Training


def step_budget(pairs: int, realign: RealignConfig) -> int:
    """Returns T_max, or without one the optimizer steps of ``realign.epochs`` over so many pairs.

    Every method of a study gets the same: one that skips a category would else train for fewer steps on the same data.
    """
    return realign.max_steps or realign.epochs * -(-pairs // realign.batch)


class _Timed(HybridPolicy):
    """Counts the CPU seconds of what the KL needs beyond log-probs: the reference's forwards, and both vocabularies."""

    kl_seconds = 0.0

    def references(self, groups: Sequence[SequenceGroup]) -> list[torch.Tensor]:
        started = time.process_time()
        found = super().references(groups)
        self.kl_seconds += time.process_time() - started
        return found

    def token_values(self, hidden_MD: torch.Tensor, *arguments: Any) -> torch.Tensor:
        started = time.process_time()
        found = super().token_values(hidden_MD, *arguments)
        self.kl_seconds += time.process_time() - started
        return found


def train(
    model: Any,
    scored: pa.Table,
    objective: ObjectiveConfig,
    realign: RealignConfig,
    on_step: Callable[[Training], None] | None = None,
) -> float:
    """Trains the adapter as stage 3 does on one worker, for ``realign.max_steps`` steps over as many epochs as these take.

    A training that is dead is no error here as it is in a run: that a method dies is what a study is to find.

    Args:
        scored: rows of SCORED_SCHEMA.
        on_step: called after each step.
    Returns: the CPU seconds that the KL took of it.
    """
    realign = replace(realign, epochs=10**6)
    policy = _Timed(model)
    rows = TrainingRows.of(scored, objective)
    rows.share_prompts(sharing_rule(model), flat=runs_flat(model))
    training = Training(rows, objective, realign, lambda total: PlainEngine(policy, realign, total))
    training.run(lambda: on_step(training) if on_step else None)
    policy.eval()
    return policy.kl_seconds
