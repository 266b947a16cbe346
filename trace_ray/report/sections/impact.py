"""Which pairs matter: impacts by category, and how concentrated the weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trace_ray.config import ObjectiveConfig
from trace_ray.pairs import Category
from trace_ray.report.survey.surveys import Surveys
from trace_ray.report.survey.values import Values
from trace_ray.runs.artifacts import Run


@dataclass(frozen=True)
class ImpactSection:
    """Impacts and weights over all weighed pairs: the conflicts, and RETAIN where the method weighs it too.

    Args:
        summary: per category: count, share_clamped, min, q25, median, q75, max; as impact alone tells, whatever the weights.
        impacts, weights: per category.
        ches: per category: ``pairs`` whose term prefers one response to another, and how many of them push ``both_ways``;
            none from earlier versions.
        alike: (pair_id, CHES per token) of the pairs that push both ways most; the page shows them among its pairs.
    """

    summary: Mapping[str, Mapping[str, float]]
    weight_norm: str
    weights_kind: str
    impacts: Mapping[str, Values]
    weights: Mapping[str, Values]
    ches: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    alike: Sequence[tuple[str, float]] = ()

    @property
    def every_weight(self) -> Values:
        return sum(self.weights.values(), Values())

    @property
    def pairs(self) -> int:
        return len(self.every_weight)

    @property
    def pairs_are(self) -> str:
        return "weighed pairs" if Category.RETAIN in self.weights else "conflicts"

    @property
    def uniform(self) -> bool:
        return self.weights_kind == "uniform"

    @property
    def clamped(self) -> int:
        """Returns the pairs of weight 0: seen by nobody in training."""
        return self.every_weight.upto(0.0)

    @property
    def head_share(self) -> float:
        return head_share(self.every_weight)

    @property
    def effective(self) -> float:
        return effective_size(self.every_weight)

    def effective_of(self, category: str) -> float:
        """Returns a category's effective sample size by its stored weights: the summary's is by impact."""
        return effective_size(self.weights.get(category, Values()))


def impact_section(run: Run, seen: Surveys, objective: ObjectiveConfig) -> ImpactSection | None:
    """Returns impacts and weights; None before impact is done."""
    if seen.scored is None:
        return None
    manifest = run.scored.manifest()
    return ImpactSection(
        summary=manifest["summary"],
        weight_norm=manifest["weight_norm"],
        weights_kind=objective.weights,
        impacts=seen.scored.impacts,
        weights=seen.scored.weights,
        ches=manifest.get("ches", {}),
        alike=[(pair_id, -minus) for minus, pair_id, *_ in seen.scored.alike.kept.get("", ())],
    )


def head_share(weights: Values, head: float = 0.1) -> float:
    """Returns the percent of all weight on the heaviest ``head`` of the pairs, at least one.

    >>> from numpy import array
    >>> from trace_ray.report.survey.values import values_of
    >>> head_share(values_of(array([8.0, 1.0, 1.0])))
    80.0
    """
    total = weights.power_sum(1)
    return 100 * weights.of_highest(max(1, round(head * len(weights)))) / total if total > 0 else 0.0


def effective_size(weights: Values) -> float:
    """Returns (sum w)^2 / sum w^2: how many equal weights would be worth as much.

    >>> from numpy import array
    >>> from trace_ray.report.survey.values import values_of
    >>> effective_size(values_of(array([2.0, 2.0, 0.0])))
    2.0
    """
    squares = weights.power_sum(2)
    return weights.power_sum(1) ** 2 / squares if squares else 0.0
