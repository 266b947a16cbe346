"""The direction v of all scores, from the gold batch: its gradient, and the solve against curvature where asked for.

No Ray here: the stage hands in shards of the work, the study all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trace_ray.config import ImpactConfig
from trace_ray.errors import UserError
from trace_ray.impact.curvature import Solution, Vector, conjugate_gradients, damped
from trace_ray.impact.gradient import GoldRow, adapter_off_log_probs, gold_gradient
from trace_ray.impact.packing import refuse_unknown_tokens


def gold_sum(model: Any, rows: Sequence[GoldRow], impact: ImpactConfig, beta: float) -> Vector:
    """Returns the summed gradient of the preference loss over gold rows at the model's parameters, by their names.

    Divide by the size of the whole gold batch for g_J.

    Args:
        model: in evaluation mode; what is trained requires grad.
    """
    refuse_unknown_tokens(rows, model)
    how: Any = {"batch_tokens": impact.batch_tokens, "share_prompts": impact.share_prompts}
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
