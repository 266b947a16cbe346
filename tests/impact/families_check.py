"""What must hold of any model, on its own weights: log-probs, packed = alone, the direction, the first loss of a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.impact import tiny
from trace_ray.config import Config, LoraSettings, ModelConfig, ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.impact.direction import gold_gradient
from trace_ray.impact.pair_scores import PairRequest, score_pairs
from trace_ray.impact.preflight import check_model
from trace_ray.impact.scores import Scorer
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.model.modes import training_mode
from trace_ray.objective.batch import micro_batch
from trace_ray.objective.losses import dpo
from trace_ray.objective.terms import pair_losses
from trace_ray.realign.policy_module import HybridPolicy

PROMPTS = [list(range(20, 60)), list(range(100, 131))]
PAIRS = [([7, 9, 11], [3, 8, 6, 12, 5, 44, 45]), ([33, 4], [15, 16, 17])]
COEFFICIENTS = {"chosen": 0.7, "rejected": -1.9}


def settings(folder: Path, **model: Any) -> Config:
    """Every linear adapted: what users ask for most."""
    lora = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("all-linear",))
    return Config(model=ModelConfig(path=str(folder), **model), lora=lora)


def check_right(folder: Path) -> None:
    """Asserts it of the model in ``folder``. Raises UserError where it is refused before triage."""
    config = settings(folder)
    try:
        check_model(config)
    except UserError as mistake:  # a family without sdpa: the line says what to use
        if mistake.where != "model.attention" or "use eager" not in mistake.remedy:
            raise
        config = settings(folder, attention="eager")
        check_model(config)
    model = new_adapter(load_model(config.model), config.lora, 0).eval()
    logps = [
        {n: tiny.log_prob(model, p, y) for n, y in zip(COEFFICIENTS, pair, strict=True)}
        for p, pair in zip(PROMPTS, PAIRS, strict=True)
    ]
    _check_direction(model, logps)
    found = _check_scores(model, logps)
    _check_first_loss(model, found)


def _check_direction(model: Any, logps: list[dict[str, torch.Tensor]]) -> None:
    rows = [
        {"prompt_ids": p, "preferred_ids": a, "dispreferred_ids": b} for p, (a, b) in zip(PROMPTS, PAIRS, strict=True)
    ]
    margins = torch.stack([logp["chosen"] - logp["rejected"] for logp in logps])
    parameters = tiny.trainable(model)
    loss = dpo(margins - margins.detach(), 0.3).sum()
    slow = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    expected = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), slow, strict=True)}
    gold = gold_gradient(model, rows, beta=0.3, batch_tokens=4096)
    off = sum(float((gold[n] - expected[n]).square().sum()) for n in gold) ** 0.5
    size = sum(float(g.square().sum()) for g in expected.values()) ** 0.5
    assert off <= 1e-3 * size, f"the gold direction is {off / size:.0%} off"


def _check_scores(model: Any, logps: list[dict[str, torch.Tensor]]) -> list[dict[str, float]]:
    direction = tiny.random_direction(model)
    impacts = [sum(c * tiny.derivative(model, logp[n], direction) for n, c in COEFFICIENTS.items()) for logp in logps]
    requests = [
        PairRequest(p, dict(zip(COEFFICIENTS, pair, strict=True)), COEFFICIENTS)
        for p, pair in zip(PROMPTS, PAIRS, strict=True)
    ]
    model.requires_grad_(False)
    found = score_pairs(requests, Scorer(model, direction), 4096, share_prompts=True)
    for scored, own in zip(found, logps, strict=True):
        assert scored.logp == pytest.approx({n: float(v) for n, v in own.items()}, abs=1e-3)
    assert tiny.relative_error([score.impact or 0.0 for score in found], impacts) <= 1e-3
    return [score.logp for score in found]


def _check_first_loss(model: Any, reference: list[dict[str, float]]) -> None:
    """In training mode, rows padded, reference log-probs as scoring stored them."""
    rows = [
        {"prompt_ids": p, "chosen_ids": a, "rejected_ids": b, "category": "INVERT", "weight": 1.0}
        | {f"{name}_ref_logp": value for name, value in logp.items()}
        for p, (a, b), logp in zip(PROMPTS, PAIRS, reference, strict=True)
    ]
    objective = ObjectiveConfig()
    batch = micro_batch(rows, objective)
    policy = HybridPolicy(model)
    training_mode(policy)
    logp_S, kl_S = policy(batch.groups)
    losses = pair_losses(batch, logp_S, kl_S, objective)
    assert losses.loss_P.tolist() == pytest.approx([math.log(2)] * len(rows), abs=3e-4)
