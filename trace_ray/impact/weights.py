"""From impacts to the rule that weights are made by, over all conflicts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from trace_ray.config import ImpactConfig, ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.impact.tally import Impacts
from trace_ray.runs.weights import IMPACT, ONES


def weight_rule(impacts: Mapping[str, Impacts], objective: ObjectiveConfig, impact: ImpactConfig) -> dict[str, Any]:
    """Returns the rule by which ``runs.weights`` makes the weights of a run's scored rows.

    Args:
        impacts: of all pairs, by weighed category.
        objective: what weights are made of; impact: how they are normalised.
    Raises: UserError as ``weight_scales`` and ``refuse_broken`` do.
    """
    uniform = objective.weights == "uniform"
    if not uniform:
        refuse_broken(impacts)
    counts = {name: found.count for name, found in impacts.items() if found.count}
    mass = {name: Fraction(count) if uniform else impacts[name].weight for name, count in counts.items()}
    scale = weight_scales(mass, counts, impact.weight_norm, impact.weigh_within)
    return {"of": ONES if uniform else IMPACT, "scale": scale}


def refuse_broken(impacts: Mapping[str, Impacts]) -> None:
    """Raises UserError where an impact that counts is missing or not finite: weight 0 would drop the pair in silence."""
    if broken := sum(found.broken for found in impacts.values()):
        remedy = "its weights overflow: try model.dtype=float32, or check them"
        raise UserError("model.path", f"{broken} impacts are not finite", remedy)


def weight_scales(mass: Mapping[str, Fraction], counts: Mapping[str, int], norm: str, within: str) -> dict[str, float]:
    """Returns for each weighed category the factor that turns max(0, impact) (or 1, if weights are uniform) into the weight.

    Args:
        mass: sum of max(0, impact) (or of ones) of each category; counts: its pairs, above 0.
        norm: ``sum`` (paper): all weights add up to 1; ``mean``: they average 1.
        within: ``all`` (paper): one factor; ``category``: one each, so that every category's weights average alike. One
            without a positive impact then has weight 0, as the whole is divided among the others no more.
    Raises: UserError where every impact is 0 or below: nothing would be trained.
    """
    pairs = sum(counts.values())
    if sum(mass.values()) <= 0:
        remedy = "try objective.weights=uniform or a larger impact.gold_size"
        raise UserError("impact", f"{pairs} conflicts, none of positive impact", remedy)
    average = Fraction(1) if norm == "mean" else Fraction(1, pairs)
    if within == "all":
        return dict.fromkeys(counts, float(average * pairs / sum(mass.values())))
    return {name: float(average * counts[name] / mass[name]) if mass[name] > 0 else 0.0 for name in counts}


def impact_summary(impacts: Mapping[str, Impacts]) -> dict[str, dict[str, float]]:
    """Returns for each category of conflict its count, share clamped to 0, quantiles, effective sample size and
    share of all conflicts' weight (none where every weight is 0).

    The effective sample size is (sum w)^2 / sum w^2 of the category's weights. Quartiles are those of the sample.
    """
    mass = sum(found.weight for found in impacts.values())
    return {
        name: {
            "count": float(found.count),
            "share_clamped": found.clamped / (found.count - found.broken),
            **_quantiles(found),
            "effective_sample_size": float(found.weight**2 / found.squares) if found.squares else 0.0,
            "weight_share": float(found.weight / mass) if mass else 0.0,
        }
        for name, found in impacts.items()
        if found.count > found.broken
    }


def _quantiles(found: Impacts) -> dict[str, float]:
    quarter, median, three = np.quantile(found.sample or [found.low, found.high], [0.25, 0.5, 0.75]).tolist()
    return {"min": found.low, "q25": quarter, "median": median, "q75": three, "max": found.high}
