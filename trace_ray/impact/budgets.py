"""The tokens of one forward that a worker process of stage 2 keeps. No Ray here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from trace_ray.config import Config
from trace_ray.model.budget import TokenBudget, backward_once, kept_budget
from trace_ray.model.kept import BUDGET

GRADIENT = "tokens of gradients"


def token_budget(config: Config, model: Any, run: Callable[[int], object], kind: str = BUDGET) -> TokenBudget:
    """Returns the tokens of one forward of this kind of work.

    Args:
        model: the one that this process has loaded; run: runs so many tokens once.
    """
    impact, device = config.impact, next(model.parameters()).device
    room: dict[str, Any] = {"gpus": impact.gpus, "longest": config.model.max_length}
    return kept_budget(f"{config.model} {impact}", impact.batch_tokens, device, run, kind=kind, **room)


def gradient_budget(config: Config, model: Any) -> TokenBudget:
    """Returns ``token_budget`` of a forward and its backward to what is trained."""
    return token_budget(config, model, partial(backward_once, model), GRADIENT)
