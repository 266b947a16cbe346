"""The direction v of all scores, from the gold batch: its gradient, and the solve against curvature where asked for.

No Ray here: the stage hands in shards of the work, the study all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from trace_ray.config import ImpactConfig
from trace_ray.errors import UserError
from trace_ray.impact.curvature import Solution, Vector, conjugate_gradients, damped
from trace_ray.model.budget import TokenBudget
from trace_ray.model.flat import batch_places, runs_flat
from trace_ray.model.head import OutputHead
from trace_ray.model.known import refuse_unknown_tokens
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.modes import adapter_off
from trace_ray.model.packing import Packed, pack
from trace_ray.model.sharing import sharing_rule
from trace_ray.objective.losses import dpo

T = TypeVar("T")
GoldRow = dict[str, Any]
SIDES = ("preferred", "dispreferred")


def gold_gradient(
    model: Any,
    rows: Sequence[GoldRow],
    *,
    beta: float,
    batch_tokens: int | TokenBudget,
    reference: Sequence[tuple[float, float]] | None = None,
    share_prompts: bool = True,
) -> dict[str, torch.Tensor]:
    """Returns the summed gradient of dpo(preferred > dispreferred) over gold rows, by trainable parameter's name, float32.

    Divide by the size of the whole gold batch for g_J; so shards add up.

    Args:
        model: a causal LM or a PEFT model around one, in evaluation mode (no dropout); what is trained requires grad.
        rows: of GOLD_SCHEMA.
        beta: as in training.
        batch_tokens: tokens a forward, both responses and padding counted; a budget shrinks where a batch does not fit.
        reference: log pi_ref of both sides of each row; None = the model is at theta_ref.
        share_prompts: run a pair as one row with one prompt where that costs less.
    Source: TRACE (arXiv 2511.02623), Algorithm 2.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    device = next(iter(parameters.values())).device
    head = OutputHead(model)

    def gradients_of(indices: list[int], packed: list[Packed]) -> Sequence[torch.Tensor | None]:
        batch = pack(packed, flat=runs_flat(model)).to(device)
        logp_P2 = response_log_probs(model, batch, head).view(-1, 2)  # preferred, dispreferred
        at = logp_P2.detach() if reference is None else logp_P2.new_tensor([reference[i] for i in indices])
        ratio_P2 = logp_P2 - at
        loss = dpo(ratio_P2[:, 0] - ratio_P2[:, 1], beta).sum()
        return torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)

    for _, gradients in _in_batches(model, rows, batch_tokens, gradients_of, share_prompts=share_prompts):
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient  # in float32, without a float32 copy of it
    return total


@torch.no_grad()
def adapter_off_log_probs(
    model: Any, rows: Sequence[GoldRow], batch_tokens: int | TokenBudget, *, share_prompts: bool = True
) -> list[tuple[float, float]]:
    """Returns log pi(y|x) of both sides of each gold row with the adapter off: the reference of a LoRA run.

    Args:
        model: a PEFT model, in evaluation mode, with its adapter anywhere.
        rows, batch_tokens, share_prompts: as ``gold_gradient`` takes them.
    """
    found = [(0.0, 0.0)] * len(rows)
    head, device = OutputHead(model), next(model.parameters()).device

    def log_probs(_indices: list[int], packed: list[Packed]) -> list[list[float]]:
        batch = pack(packed, flat=runs_flat(model)).to(device)
        return response_log_probs(model, batch, head).view(-1, 2).tolist()

    with adapter_off(model):
        for indices, known in _in_batches(model, rows, batch_tokens, log_probs, share_prompts=share_prompts):
            for i, (preferred, other) in zip(indices, known, strict=True):
                found[i] = preferred, other
    return found


def _in_batches(
    model: Any,
    rows: Sequence[GoldRow],
    batch_tokens: int | TokenBudget,
    run: Callable[[list[int], list[Packed]], T],
    *,
    share_prompts: bool,
) -> Iterator[tuple[list[int], T]]:
    """Yields (places of pairs, what ``run`` returns of them and their rows), a batch at a time.

    A pair is one row where sharing the prompt pays, else two rows one after the other.
    """
    budget = TokenBudget.of(batch_tokens)
    pays = sharing_rule(model, allowed=share_prompts)
    shared: list[int] = []
    apart: list[int] = []
    for i, row in enumerate(rows):
        sides = [len(row[f"{side}_ids"]) for side in SIDES]
        (shared if pays(len(row["prompt_ids"]), sides) else apart).append(i)
    for group, together in ((shared, True), (apart, False)):
        packed = [_packed(rows[i], together=together) for i in group]
        lengths = [len(some) * max(len(packed_row) for packed_row in some) for some in packed]
        run_some = partial(_run_some, run, group, packed)
        for chosen, result in budget.run(batch_places(lengths, budget.tokens, flat=runs_flat(model)), run_some):
            yield [group[k] for k in chosen], result


def _run_some(
    run: Callable[[list[int], list[Packed]], T], group: list[int], packed: list[list[Packed]], chosen: list[int]
) -> T:
    return run([group[k] for k in chosen], [packed_row for k in chosen for packed_row in packed[k]])


def _packed(row: GoldRow, *, together: bool) -> list[Packed]:
    sides = tuple(row[f"{side}_ids"] for side in SIDES)
    prompt = row["prompt_ids"]
    return [Packed(prompt, sides)] if together else [Packed(prompt, (side,)) for side in sides]


def gold_sum(
    model: Any, rows: Sequence[GoldRow], impact: ImpactConfig, beta: float, budget: TokenBudget | None = None
) -> Vector:
    """Returns the summed gradient of the preference loss over gold rows at the model's parameters, by their names.

    Divide by the size of the whole gold batch for g_J.

    Args:
        model: in evaluation mode; what is trained requires grad.
        budget: tokens of one forward; None = those of ``impact``.
    """
    refuse_unknown_tokens(rows, model)
    how: Any = {"batch_tokens": budget or impact.tokens, "share_prompts": impact.share_prompts}
    # A new adapter changes nothing and the log-ratios are 0; in U2A's later rounds it is trained and they are not.
    reference = adapter_off_log_probs(model, rows, **how) if impact.parameters != "full" else None
    return gold_gradient(model, rows, beta=beta, reference=reference, **how)


def solve(gradient: Vector, product: Callable[[Vector], Vector], impact: ImpactConfig) -> Solution:
    """Returns v = (G + gamma I)^-1 g_J.

    Args:
        gradient: g_J; product: v -> G v, the mean over the RETAIN sample.
    Raises: UserError where the iterations allowed do not reach the tolerance.
    """
    found = conjugate_gradients(
        damped(product, impact.gamma), gradient, tolerance=impact.cg_tolerance, iterations=impact.cg_iterations
    )
    if not found.converged:
        raise UserError(
            "impact.cg_iterations",
            f"{impact.cg_iterations}, residual {found.residuals[-1]:.2g}",
            "give more, or a larger impact.gamma or impact.cg_tolerance",
        )
    return found
