"""v = (G + gamma I)^-1 g_J: the damped Gauss-Newton solve that the paper replaces by g_J / gamma.

G is the Gauss-Newton matrix of the RETAIN term, the mean over pairs of the mean over response tokens of
J^T (diag p - p p^T) J, with J = d logits / d parameters: at theta_ref the exact Hessian of KL(pi_ref || pi_theta), as its
gradient is 0 there. So v is the bi-level problem's answer to the gold gradient, the RETAIN loss being the inner problem.

N response tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.func import functional_call

from trace_ray.model.batches import token_batches
from trace_ray.model.budget import TokenBudget
from trace_ray.model.decoder import causal_lm
from trace_ray.model.head import OutputHead
from trace_ray.model.packing import PackedBatch, hidden_states, pack_each
from trace_ray.model.vocabulary import Head, logits_and_slope, times
from trace_ray.model.wide import wide_linear

Vector = dict[str, torch.Tensor]


def gauss_newton_product(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    vector: Mapping[str, torch.Tensor],
    *,
    batch_tokens: int | TokenBudget,
) -> Vector:
    """Returns the sum over rows of (mean over response tokens of J^T (diag p - p p^T) J) vector, float32.

    Divide by the number of rows of the whole sample for G; so shards add up. One forward with tangents (forward mode,
    which has no rule for fused attention: eager) and one forward with a backward.

    Args:
        model: in evaluation mode; what is trained requires grad.
        rows: prompt_ids and preferred_ids.
        vector: by trainable parameter's name.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    device = next(iter(parameters.values())).device
    tangents = {name: vector[name].to(p) for name, p in parameters.items()}
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    head, sequences = OutputHead(model), [(row["prompt_ids"], row["preferred_ids"]) for row in rows]
    weight, bias = (_name_of(own, parameters) for own in (head.linear.weight, head.linear.bias))
    along = Head(tangents[weight] if weight else torch.zeros(0, device=device), tangents[bias] if bias else None)

    def added(indices: list[int]) -> list[tuple[str | None, torch.Tensor | None]]:
        batch = pack_each(sequences[i] for i in indices).to(device)
        tangent_ND = hidden_tangents(model, batch, parameters, tangents)
        hidden_ND = hidden_states(model, batch)
        share_N = (1.0 / batch.length_S.clamp(min=1))[batch.response_N]
        upstream_ND, by_weight, by_bias = _through_head(hidden_ND.detach(), tangent_ND, head, along, share_N)
        gradients = torch.autograd.grad(hidden_ND, list(parameters.values()), upstream_ND, allow_unused=True)
        return [(weight, by_weight), (bias, by_bias), *zip(parameters, gradients, strict=True)]

    budget = TokenBudget.of(batch_tokens)
    batches = token_batches([sum(map(len, both)) for both in sequences], budget.tokens)
    for name, part in chain.from_iterable(parts for _, parts in budget.run(batches, added)):
        if name and part is not None:
            total[name] += part  # in float32, without a float32 copy of it
    return total


def _name_of(own: torch.Tensor | None, parameters: Mapping[str, torch.Tensor]) -> str | None:
    return next((name for name, parameter in parameters.items() if parameter is own), None)


class _Hidden(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        return hidden_states(self.model, batch)


def hidden_tangents(
    model: Any,
    batch: PackedBatch,
    parameters: Mapping[str, torch.Tensor],
    tangents: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Returns the derivative of the hidden states along the tangents, shape (N, D), without keeping activations."""
    with _eager(model), torch.no_grad(), forward_ad.dual_level():
        make_dual: Any = forward_ad.make_dual
        duals = {f"model.{n}": make_dual(p.detach(), tangents[n]) for n, p in parameters.items()}
        dual_ND = functional_call(_Hidden(model), duals, (batch,))
        unpack_dual: Any = forward_ad.unpack_dual
        hidden_ND, tangent_ND = unpack_dual(dual_ND)
        return torch.zeros_like(hidden_ND) if tangent_ND is None else tangent_ND.clone()


@contextmanager
def _eager(model: Any) -> Any:
    causal = causal_lm(model)
    before = causal.config._attn_implementation  # noqa: SLF001 - it has no public reader
    causal.set_attn_implementation("eager")
    try:
        yield
    finally:
        causal.set_attn_implementation(before)


def _through_head(
    hidden_ND: torch.Tensor, tangent_ND: torch.Tensor, head: OutputHead, along: Head, share_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Returns the head's share: what goes on to the hidden states, and the products for the head's weight and bias."""
    weights = head.weights().detached()
    weight_VD = weights.weight_VD
    by_hidden_ND = torch.empty_like(hidden_ND)
    by_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if along.weight_VD.numel() else None
    by_bias = None if along.bias_V is None else torch.zeros_like(along.bias_V, dtype=torch.float32)
    for at in head.chunks(len(hidden_ND)):
        logits_nV, bent_slope = logits_and_slope(hidden_ND[at], weights)
        change_nV = wide_linear(tangent_ND[at], weight_VD)
        if along.weight_VD.numel():
            change_nV += wide_linear(hidden_ND[at], along.weight_VD)
        if along.bias_V is not None:
            change_nV += along.bias_V.float()
        change_nV = times(change_nV, bent_slope)
        p_nV = logits_nV.softmax(-1)
        change_nV = p_nV * (change_nV - (p_nV * change_nV).sum(-1, keepdim=True)) * share_N[at, None]
        change_nV = times(change_nV, bent_slope)
        by_hidden_ND[at] = change_nV.to(weight_VD.dtype) @ weight_VD
        if by_weight is not None:
            by_weight.addmm_(change_nV.T, hidden_ND[at].float())
        if by_bias is not None:
            by_bias += change_nV.sum(0)
    return by_hidden_ND, by_weight, by_bias


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found.

    Args:
        vector: x of A x = b.
        residuals: |b - A x| / |b| after 0, 1, ... products.
        converged: whether the last is at or below the tolerance.
    """

    vector: Vector
    residuals: list[float]
    converged: bool


def conjugate_gradients(
    product: Callable[[Vector], Vector], b: Vector, *, tolerance: float, iterations: int
) -> Solution:
    """Solves A x = b for a symmetric positive definite A.

    Args:
        product: x -> A x.
        tolerance: of |b - A x| / |b|.
        iterations: products at most.
    """
    x = {name: torch.zeros_like(value) for name, value in b.items()}
    residual, toward = dict(b), dict(b)
    size = squared = _dot(b, b)
    residuals = [1.0]
    while residuals[-1] > tolerance and len(residuals) <= iterations and size > 0:
        image = product(toward)
        step = squared / _dot(toward, image)
        x = {name: value + step * toward[name] for name, value in x.items()}
        residual = {name: value - step * image[name] for name, value in residual.items()}
        before, squared = squared, _dot(residual, residual)
        toward = {name: residual[name] + squared / before * value for name, value in toward.items()}
        residuals.append((squared / size) ** 0.5)
    return Solution(x, residuals, residuals[-1] <= tolerance)


def damped(product: Callable[[Vector], Vector], gamma: float) -> Callable[[Vector], Vector]:
    """Returns v -> G v + gamma v."""

    def apply(vector: Vector) -> Vector:
        image = product(vector)
        return {name: image[name] + gamma * value for name, value in vector.items()}

    return apply


def _dot(a: Vector, b: Vector) -> float:
    return float(sum((value.double() * b[name].double()).sum() for name, value in a.items()))
