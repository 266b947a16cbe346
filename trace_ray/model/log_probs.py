"""Log-probabilities of responses under a causal language model; logits are made for response tokens alone, in chunks."""

from __future__ import annotations

from typing import Any

import torch

from trace_ray.model.head import OutputHead
from trace_ray.model.packing import PackedBatch, hidden_states


def response_log_probs(model: Any, batch: PackedBatch, head: OutputHead | None = None) -> torch.Tensor:
    """Returns log pi(y|x), summed over the response's tokens, in nats, float32, shape (S,).

    Memory does not grow with B x T x V. Differentiable in every parameter, once.

    Args:
        model: a Hugging Face causal LM, with or without a PEFT adapter.
        head: the model's own, made anew if None.
    """
    head = head or OutputHead(model)
    return batch.by_response(head.log_probs(hidden_states(model, batch), batch.target_N))


def target_log_probs(logits_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    """Returns log pi(token) in nats, shape (N,)."""
    return -torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")
