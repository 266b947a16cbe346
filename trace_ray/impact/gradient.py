"""The direction: the gradient of the preference loss over a gold shard, at theta_ref."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trace_ray.batching import token_batches
from trace_ray.log_probs import collate, response_log_probs
from trace_ray.losses import dpo

GoldRow = dict[str, Any]


def gold_gradient(model: Any, rows: Sequence[GoldRow], *, beta: float, batch_tokens: int) -> dict[str, torch.Tensor]:
    """Returns the summed gradient of dpo(preferred > dispreferred) over gold rows, by trainable parameter's name.

    Divide by the size of the whole gold batch for g_J; so shards add up.

    Args:
        model: a PEFT model in evaluation mode (no dropout) whose adapter is trainable.
        rows: of GOLD_SCHEMA.
        beta: as in training.
        batch_tokens: padded tokens a forward, both responses counted.
    Source: METHOD section 2, Algorithm 2.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    device = next(iter(parameters.values())).device
    for chunk in _batches(rows, batch_tokens):
        prompts = [row["prompt_ids"] for row in chunk]
        responses = [row[f"{side}_ids"] for side in ("preferred", "dispreferred") for row in chunk]
        logp = response_log_probs(model, collate([*prompts, *prompts], responses).to(device))
        log_ratio = logp - logp.detach()
        loss = dpo(log_ratio[: len(chunk)] - log_ratio[len(chunk) :], beta).sum()
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            total[name] += gradient.float()
    return total


def _batches(rows: Sequence[GoldRow], batch_tokens: int) -> Iterator[list[GoldRow]]:
    sides = [max(len(row["preferred_ids"]), len(row["dispreferred_ids"])) + len(row["prompt_ids"]) for row in rows]
    for indices in token_batches([2 * length for length in sides], batch_tokens):
        yield [rows[i] for i in indices]
