"""How alike a pair's two sides are to the model: whether a step on the pair pushes both the same way.

Source: Razin et al. 2024 (arXiv 2410.08847), the centered hidden embedding similarity (CHES) and its length-normalised form.
D features of a hidden state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig

Row = Mapping[str, Any]


def ches(preferred_D: torch.Tensor, suppressed_D: torch.Tensor) -> float:
    """Returns <h_p, h_s> - |h_p|^2; the larger, the more of what lowers the suppressed side lowers the preferred one too.

    Args:
        preferred_D, suppressed_D: of each response the hidden states that predict its tokens (what the output head reads),
            summed over them; or their means, for the length-normalised form.

    >>> ches(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0]))
    2.0
    """
    preferred, suppressed = preferred_D.double(), suppressed_D.double()
    return float(preferred @ suppressed - preferred @ preferred)


def relation(objective: ObjectiveConfig, category: str) -> tuple[str, Sequence[str]] | None:
    """Returns the preferred response and those suppressed, of a category's first term that has both; None without one."""
    terms = (term for term in objective.terms(category) if term.prefer and term.suppress)
    return next(((term.prefer, term.suppress) for term in terms), None)


def pair_ches(row: Row, hidden: Mapping[str, torch.Tensor], objective: ObjectiveConfig) -> dict[str, float | None]:
    """Returns a pair's columns: CHES of sums and of means over tokens, the largest over the suppressed responses.

    Args:
        row: with a category and the tokens of its responses, as ``{name}_ids``.
        hidden: of each response the summed hidden states, shape (D,).
    Returns: None for both where the category's terms prefer nothing, as npo on both sides, or nothing was scored.
    """
    sides = relation(objective, row["category"])
    if sides is None or not {sides[0], *sides[1]} <= set(hidden):
        return {"ches": None, "ches_per_token": None}
    first, others = sides
    size = {name: max(1, len(row[f"{name}_ids"])) for name in (first, *others)}
    return {
        "ches": max(ches(hidden[first], hidden[other]) for other in others),
        "ches_per_token": max(ches(hidden[first] / size[first], hidden[other] / size[other]) for other in others),
    }
