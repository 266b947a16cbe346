"""Log-probabilities of target tokens from hidden states, the logits made a chunk of tokens at a time.

The gradient by the hidden states is made in the same pass (each token's log-prob is one number, so its gradient only
needs scaling later): no logits are kept and none are made twice, unless the head itself is trained. Memory is
chunk x V, whatever the batch.

Shapes: N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from trace_ray.model.wide import wide_linear

LOGIT_BYTES = 2**26
"""Bytes of one chunk of logits, in float32, on a CPU: more is no faster there."""
GPU_LOGIT_BYTES = 2**28
"""On a GPU, where 131 tokens of a vocabulary of 128 k are too few to keep it busy: 523 of them."""


@dataclass(frozen=True)
class Head:
    """The output embedding: logits = cap(scale (W h + b)), cap(z) = softcap tanh(z / softcap), or none if softcap is 0."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    softcap: float = 0.0
    scale: float = 1.0

    def detached(self) -> Head:
        bias_V = None if self.bias_V is None else self.bias_V.detach()
        return replace(self, weight_VD=self.weight_VD.detach(), bias_V=bias_V)


SCALES = {"lm_head_multiplier": 1, "logit_scale": 1, "logits_scaling": -1}
"""Settings of a model's configuration that multiply logits (1) or divide them (-1). Others are met by ``model.probe``."""


def bend(config: Any) -> tuple[float, float]:
    """Returns (softcap, scale) of a model's logits; of a model for text and images those of its text part."""
    text = config.get_text_config()
    scale = 1.0
    for name, power in SCALES.items():
        scale *= float(getattr(text, name, None) or 1.0) ** power
    return float(getattr(text, "final_logit_softcapping", None) or 0.0), scale


def tokens_at_once(weight_VD: torch.Tensor, vocabulary: int) -> int:
    """Returns how many tokens' logits are held at once beside a head's weight; what is computed does not depend on it.

    Args:
        weight_VD: where it stands counts; under ZeRO-3 it may be empty.
        vocabulary: its rows.
    """
    held = GPU_LOGIT_BYTES if weight_VD.device.type == "cuda" else LOGIT_BYTES
    return max(1, held // (4 * vocabulary))


def chunks(tokens: int, at_once: int) -> Iterator[slice]:
    """Yields the ranges of tokens whose logits are held at once.

    >>> list(chunks(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    yield from (slice(start, min(tokens, start + at_once)) for start in range(0, tokens, at_once))


def head_logits(hidden_nD: torch.Tensor, head: Head) -> torch.Tensor:
    """Returns logits_nV in float32, differentiable in hidden states, weight and bias."""
    logits_nV = wide_linear(hidden_nD, head.weight_VD, head.bias_V)
    if head.scale != 1.0:
        logits_nV = logits_nV * head.scale
    return torch.tanh(logits_nV / head.softcap) * head.softcap if head.softcap else logits_nV


def logits_and_slope(hidden_nD: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Returns (logits_nV in float32, d logit / d (W h + b))."""
    logits_nV = wide_linear(hidden_nD, head.weight_VD, head.bias_V)
    if head.scale != 1.0:
        logits_nV = logits_nV * head.scale
    if not head.softcap:
        return logits_nV, head.scale
    bent_nV = torch.tanh(logits_nV / head.softcap)
    return bent_nV * head.softcap, (1 - bent_nV * bent_nV) * head.scale


def times(values_nV: torch.Tensor, slope: torch.Tensor | float) -> torch.Tensor:
    """Returns ``values_nV`` multiplied, in place, by what ``logits_and_slope`` returned."""
    return values_nV if isinstance(slope, float) and slope == 1.0 else values_nV.mul_(slope)


def log_prob_slopes(
    hidden_nD: torch.Tensor, head: Head, target_n: torch.Tensor, *, slopes: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (log pi(token), shape (n,); d log pi(token) / d (W h + b), shape (n, V), where ``slopes``, else empty)."""
    logits_nV, bent_slope = logits_and_slope(hidden_nD, head)
    normaliser_n = logits_nV.logsumexp(-1)
    logp_n = logits_nV.gather(1, target_n[:, None])[:, 0] - normaliser_n
    if not slopes:
        return logp_n, logits_nV[:0]
    slope_nV = logits_nV.sub_(normaliser_n[:, None]).exp_().neg_()
    slope_nV.scatter_add_(1, target_n[:, None], torch.ones_like(logp_n)[:, None])
    return logp_n, times(slope_nV, bent_slope)


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        target_N: torch.Tensor,
        bent: tuple[float, float],
    ) -> torch.Tensor:
        head = Head(weight_VD, bias_V, *bent)
        gradient_ND = torch.zeros_like(hidden_ND) if ctx.needs_input_grad[0] else None
        logp_N = torch.empty(len(hidden_ND), device=hidden_ND.device)
        for at in chunks(len(hidden_ND), tokens_at_once(weight_VD, len(weight_VD))):
            slopes = gradient_ND is not None
            logp_N[at], slope_nV = log_prob_slopes(hidden_ND[at], head, target_N[at], slopes=slopes)
            if gradient_ND is not None:
                gradient_ND[at] = slope_nV.to(weight_VD.dtype) @ weight_VD
        ctx.bent = bent
        trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        again = (hidden_ND, weight_VD, bias_V, target_N) if trained else (None, None, None, None)
        ctx.save_for_backward(*again, gradient_ND)
        return logp_N

    @staticmethod
    def backward(ctx: Any, upstream_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, target_N, gradient_ND = ctx.saved_tensors
        by_hidden = None if gradient_ND is None else gradient_ND * upstream_N[:, None].to(gradient_ND.dtype)
        by_weight, by_bias = None, None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            head = Head(weight_VD, bias_V, *ctx.bent)
            by_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
            by_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
            for at in chunks(len(hidden_ND), tokens_at_once(weight_VD, len(weight_VD))):
                _, slope_nV = log_prob_slopes(hidden_ND[at], head, target_N[at])
                slope_nV *= upstream_N[at, None]
                by_weight.addmm_(slope_nV.T, hidden_ND[at].float())
                if by_bias is not None:
                    by_bias += slope_nV.sum(0)
            by_weight = by_weight.to(weight_VD.dtype)
            by_bias = None if by_bias is None else by_bias.to(weight_VD.dtype)
        return by_hidden, by_weight, by_bias, None, None


def chunked_log_probs(hidden_ND: torch.Tensor, head: Head, target_N: torch.Tensor) -> torch.Tensor:
    """Returns log pi(token) in nats, float32, shape (N,); differentiable once, in hidden states, weight and bias."""
    apply: Any = _ChunkedLogProbs.apply
    logp_N: torch.Tensor = apply(hidden_ND, head.weight_VD, head.bias_V, target_N, (head.softcap, head.scale))
    return logp_N
