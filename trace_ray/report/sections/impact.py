"""Which pairs matter: impacts by category, and how concentrated the weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from trace_ray.config import ObjectiveConfig
from trace_ray.pairs import Category
from trace_ray.runs.artifacts import Run

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImpactSection:
    """Impacts and weights over all weighed pairs: the conflicts, and RETAIN where the method weighs it too.

    Args:
        summary: per category: count, share_clamped, min, q25, median, q75, max; as impact alone tells, whatever the weights.
        impacts, weights: per category, as stored.
        ches: per category: ``pairs`` whose term prefers one response to another, and how many of them push ``both_ways``;
            none from earlier versions.
    """

    summary: Mapping[str, Mapping[str, float]]
    weight_norm: str
    weights_kind: str
    impacts: Mapping[str, Floats]
    weights: Mapping[str, Floats]
    ches: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def every_weight(self) -> Floats:
        return np.concatenate(list(self.weights.values())) if self.weights else np.empty(0)

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
        return int((self.every_weight <= 0).sum())

    @property
    def head_share(self) -> float:
        return head_share(self.every_weight)

    @property
    def effective(self) -> float:
        return effective_size(self.every_weight)

    def effective_of(self, category: str) -> float:
        """Returns a category's effective sample size by its stored weights: the summary's is by impact."""
        return effective_size(self.weights.get(category, np.empty(0)))


def impact_section(run: Run, objective: ObjectiveConfig) -> ImpactSection | None:
    """Returns impacts and weights; None before impact is done."""
    if not run.scored.done():
        return None
    columns = ("impact", "weight")
    found: dict[str, dict[str, list[Floats]]] = {column: {} for column in columns}
    for table in run.scored.tables(["category", *columns]):
        for name in objective.weighed:
            mine = table.filter(pc.equal(table["category"], name))
            for column in columns if len(mine) else ():
                found[column].setdefault(name, []).append(mine[column].to_numpy().astype(float))
    impacts, weights = ({name: np.concatenate(parts) for name, parts in found[kind].items()} for kind in columns)
    manifest = run.scored.manifest()
    return ImpactSection(
        summary=manifest["summary"],
        weight_norm=manifest["weight_norm"],
        weights_kind=objective.weights,
        impacts=impacts,
        weights=weights,
        ches=manifest.get("ches", {}),
    )


def head_share(weights: Floats, head: float = 0.1) -> float:
    """Returns the percent of all weight on the heaviest ``head`` of the pairs, at least one.

    >>> head_share(np.array([8.0, 1.0, 1.0]))
    80.0
    """
    if not len(weights) or weights.sum() <= 0:
        return 0.0
    heaviest = np.sort(weights)[::-1][: max(1, round(head * len(weights)))]
    return float(100 * heaviest.sum() / weights.sum())


def effective_size(weights: Floats) -> float:
    """Returns (sum w)^2 / sum w^2: how many equal weights would be worth as much.

    >>> effective_size(np.array([2.0, 2.0, 0.0]))
    2.0
    """
    squares = float((weights**2).sum())
    return float(weights.sum() ** 2 / squares) if squares else 0.0
