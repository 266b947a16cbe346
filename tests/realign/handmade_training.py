"""A training in this process on rows made by hand, all categories in it: of what several tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.realign import handmade
from trace_ray.config import ObjectiveConfig
from trace_ray.model.flat import choose_packing
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.engine import PlainEngine
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.training import Training

CLOCK = ("seconds", "tokens_per_s", "memory_gib")
"""Figures of a step that differ from run to run."""


def training(
    folder: Path, *, flat: bool = False, device: str = "cpu", engine: type[PlainEngine] = PlainEngine, **realign: Any
) -> Training:
    """Returns a training of several micro-steps a step, over three epochs of 12 pairs.

    Args:
        folder: of ``handmade.tiny_model``; flat: whether rows are flat, and pairs without a KL share their prompt.
    """
    config = handmade.tiny_config(folder, ObjectiveConfig(alpha_kl=5.0), micro_tokens=96, epochs=3, **realign)
    model = load_model(config.model)
    table = pa.Table.from_pylist(handmade.scored_rows(model, 12), schema=SCORED_SCHEMA)
    rows = TrainingRows.of(table, config.objective)
    model = new_adapter(model, config.lora, 0)
    if flat:
        rows.share_prompts(lambda *_: True, flat=choose_packing(model, "flat", "cpu"))
    policy = HybridPolicy(model.to(device))
    return Training(rows, config.objective, config.realign, lambda steps: engine(policy, config.realign, steps))


def figures(made: Training) -> list[dict[str, Any]]:
    """Returns a training's figures but for those of the clock."""
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in made.metrics]
