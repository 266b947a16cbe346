"""d loss / d log pi(y|x) of each pair's responses: what turns response scores into a pair's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.objective.losses import term_loss

Row = Mapping[str, Any]


def pair_slopes(
    rows: Sequence[Row], objective: ObjectiveConfig, log_ratios: Sequence[Mapping[str, float]] | None = None
) -> list[dict[str, float]]:
    """Returns for each row {response name: slope of the row's loss}.

    At theta_ref every log-ratio is 0 and the slopes depend on the term alone (and lengths); elsewhere on ``log_ratios``.
    kl has slope 0 at theta_ref; its gradient away from it is no combination of response gradients.

    Args:
        rows: with a category and the tokens of its term's responses, as ``{name}_ids``.
        log_ratios: r(y) of each row's responses; None = all 0.
    """
    slopes: list[dict[str, float]] = [{} for _ in rows]
    for category in dict.fromkeys(row["category"] for row in rows):
        term = objective.term(category)
        names = term.responses
        at = [i for i, row in enumerate(rows) if row["category"] == category]
        length = {n: torch.tensor([float(len(rows[i][f"{n}_ids"])) for i in at], dtype=torch.float64) for n in names}
        ratio = {n: torch.tensor([log_ratios[i][n] if log_ratios else 0.0 for i in at]).double() for n in names}
        for name, values in _slopes(term, objective, ratio, length).items():
            for i, value in zip(at, values.tolist(), strict=True):
                slopes[i][name] = value
    return slopes


def _slopes(
    term: TermConfig,
    objective: ObjectiveConfig,
    ratio: Mapping[str, torch.Tensor],
    length: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    if term.loss == "kl" and any(bool(values.any()) for values in ratio.values()):
        raise ValueError("kl away from theta_ref is no function of log-ratios")
    if term.loss in ("kl", "skip"):
        return {name: torch.zeros_like(values) for name, values in length.items()}
    if term.loss == "sft":
        return {name: -1 / values.clamp(min=1) for name, values in length.items()}
    with torch.enable_grad():
        variables = {name: values.clone().requires_grad_() for name, values in ratio.items()}
        loss = term_loss(term, objective, variables, length).sum()
    return dict(zip(variables, torch.autograd.grad(loss, list(variables.values())), strict=True))
