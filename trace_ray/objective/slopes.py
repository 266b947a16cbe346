"""d loss / d log pi of each pair's responses and of their tokens: what turns response scores into a pair's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.objective.losses import Parameters, Response
from trace_ray.objective.terms import term_loss

Row = Mapping[str, Any]
Figures = Sequence[Mapping[str, float]]


def pair_slopes(
    rows: Sequence[Row],
    objective: ObjectiveConfig,
    log_ratios: Figures | None = None,
    log_probs: Figures | None = None,
) -> list[dict[str, float]]:
    """Returns for each row {response name: d loss / d log pi(y|x)}, the sum over its category's terms.

    At theta_ref every log-ratio is 0 and the slopes depend on the terms alone (and lengths); elsewhere on ``log_ratios``.
    A slope that depends on log-probs which are not given is NaN. Terms that compare token by token are left out:
    ``token_slopes``.

    Args:
        rows: with a category and the tokens of its terms' responses, as ``{name}_ids``.
        log_ratios, log_probs: r(y) and log pi(y|x) of each row's responses; None = all 0, and not known.
    Raises: ValueError where a term compares token by token away from theta_ref: its gradient there is no combination of
        gradients of log-probs.
    """
    slopes: list[dict[str, float]] = [{} for _ in rows]
    for category in dict.fromkeys(row["category"] for row in rows):
        names = objective.responses(category)
        at = [i for i, row in enumerate(rows) if row["category"] == category]
        length = {n: torch.tensor([float(len(rows[i][f"{n}_ids"])) for i in at], dtype=torch.float64) for n in names}
        ratio = {n: torch.tensor([log_ratios[i][n] if log_ratios else 0.0 for i in at]).double() for n in names}
        logp = {n: torch.tensor([log_probs[i][n] if log_probs else torch.nan for i in at]).double() for n in names}
        total = {name: torch.zeros_like(values) for name, values in length.items()}
        for term in objective.terms(category):
            if term.entry.scored_by_slopes:
                for name, values in _slopes(term, objective, ratio, logp, length).items():
                    total[name] = total[name] + values
            elif any(bool(values.any()) for values in ratio.values()):
                raise ValueError(f"{term.loss} away from theta_ref is no function of log-ratios")
        for name, values in total.items():
            for i, value in zip(at, values.tolist(), strict=True):
                slopes[i][name] = value
    return slopes


def _slopes(
    term: TermConfig,
    objective: ObjectiveConfig,
    ratio: Mapping[str, torch.Tensor],
    logp: Mapping[str, torch.Tensor],
    length: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    with torch.enable_grad():
        moved = {name: torch.zeros_like(ratio[name]).requires_grad_() for name in term.responses}
        responses = {
            name: Response(
                tokens_B=length[name],
                logp_B=logp[name] + by,
                log_ratio_B=ratio[name] + by,
                token_mean_B=torch.full_like(by, torch.nan),
            )
            for name, by in moved.items()
        }
        loss = term_loss(term, objective, responses).sum()
    return dict(zip(moved, torch.autograd.grad(loss, list(moved.values())), strict=True))


@dataclass(frozen=True)
class TokenSlope:
    """d loss / d log pi(token) at theta_ref, as a function of the tokens' log-probs.

    Args:
        factor: d loss / d the token's value; slope: of that value, as a loss's entry has it.
    """

    factor: float
    slope: Callable[[torch.Tensor, Parameters], torch.Tensor]
    parameters: Parameters

    def __call__(self, logp_N: torch.Tensor) -> torch.Tensor:
        """Returns it for tokens of the log-probs ``logp_N``, shape (N,)."""
        return self.factor * self.slope(logp_N, self.parameters)


def token_slopes(row: Row, objective: ObjectiveConfig) -> dict[str, list[TokenSlope]]:
    """Returns {response name: what each term that compares token by token adds to its tokens' slopes} at theta_ref.

    Left out are terms that have no gradient there, as kl.
    """
    found: dict[str, list[TokenSlope]] = {}
    for term in objective.terms(row["category"]):
        slope = term.entry.token_slope
        if slope is None:
            continue
        with torch.enable_grad():
            mean = {name: torch.zeros(1, dtype=torch.float64, requires_grad=True) for name in term.responses}
            unknown = torch.full((1,), torch.nan, dtype=torch.float64)
            tokens = {name: len(row[f"{name}_ids"]) for name in mean}
            responses = {
                name: Response(
                    tokens_B=torch.full_like(unknown, tokens[name]),
                    logp_B=unknown,
                    log_ratio_B=unknown,
                    token_mean_B=values,
                )
                for name, values in mean.items()
            }
            loss = term_loss(term, objective, responses).sum()
        by_mean = torch.autograd.grad(loss, list(mean.values()))
        for name, by in zip(mean, by_mean, strict=True):
            factor = float(by) / max(1, tokens[name])
            found.setdefault(name, []).append(TokenSlope(factor, slope, objective.parameters(term)))
    return found
