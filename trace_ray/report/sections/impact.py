"""Which pairs matter: impacts by category, how concentrated the weights are, and the pairs of highest weight."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from trace_ray.config import ObjectiveConfig, ReportConfig, TermConfig
from trace_ray.pairs import RESPONSE_NAMES, Category, prompt_text
from trace_ray.report.redact import Excerpt, excerpt
from trace_ray.runs.artifacts import Run

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TopPair:
    """A weighed pair of high rank as the page shows it; ``roles``: response -> preferred or suppressed, empty at weight 0."""

    rank: int
    pair_id: str
    category: str
    source: str
    weight: float
    impact: float
    p_chosen: float | None
    p_rejected: float | None
    prompt: Excerpt | None
    responses: Mapping[str, Excerpt | None]
    roles: Mapping[str, str]


@dataclass(frozen=True)
class ImpactSection:
    """Impacts and weights over all weighed pairs: the conflicts, and RETAIN where the method weighs it too.

    Args:
        summary: per category: count, share_clamped, min, q25, median, q75, max; as impact alone tells, whatever the weights.
        impacts, weights: per category, as stored.
        top: of highest weight; of highest impact where the weights are uniform.
    """

    summary: Mapping[str, Mapping[str, float]]
    weight_norm: str
    weights_kind: str
    impacts: Mapping[str, Floats]
    weights: Mapping[str, Floats]
    top: list[TopPair]

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


def impact_section(run: Run, report: ReportConfig, objective: ObjectiveConfig) -> ImpactSection | None:
    """Returns impacts, weights and top pairs; None before impact is done."""
    if not run.scored.done():
        return None
    columns = ("impact", "weight")
    found: dict[str, dict[str, list[Floats]]] = {column: {} for column in columns}
    for table in run.scored.tables(["category", *columns]):
        for name in objective.weighed:
            mine = table.filter(pc.equal(table["category"], name))
            for column in columns if len(mine) else ():
                found[column].setdefault(name, []).append(mine[column].to_numpy().astype(float))
    impacts, weights = ({name: np.concatenate(parts) for name, parts in found[one].items()} for one in columns)
    manifest = run.scored.manifest()
    return ImpactSection(
        summary=manifest["summary"],
        weight_norm=manifest["weight_norm"],
        weights_kind=objective.weights,
        impacts=impacts,
        weights=weights,
        top=top_pairs(run, report, objective),
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


def top_pairs(run: Run, report: ReportConfig, objective: ObjectiveConfig) -> list[TopPair]:
    """Returns the weighed pairs of highest weight, of highest impact where all weigh alike; ties by pair_id.

    One part is held at a time.
    """
    ranked_by = "impact" if objective.weights == "uniform" else "weight"
    light = ["pair_id", "category", "source", "prompt", "weight", "impact", "p_violates_chosen", "p_violates_rejected"]
    best: list[dict[str, Any]] = []
    for table in run.scored.tables([*light, *RESPONSE_NAMES]):
        weighed = table.filter(pc.is_finite(table["impact"])).to_pylist()  # an anchor's is null
        best = heapq.nsmallest(report.top_pairs, [*best, *weighed], key=lambda r: (-r[ranked_by], r["pair_id"]))
    return [_shown(rank, row, report.redact, objective) for rank, row in enumerate(best, 1)]


def _shown(rank: int, row: Mapping[str, Any], redact: str, objective: ObjectiveConfig) -> TopPair:
    return TopPair(
        rank=rank,
        pair_id=row["pair_id"],
        category=row["category"],
        source=row["source"],
        weight=row["weight"],
        impact=row["impact"],
        p_chosen=row["p_violates_chosen"],
        p_rejected=row["p_violates_rejected"],
        prompt=excerpt(prompt_text(row["prompt"]), redact),
        responses={name: excerpt(row[name], redact) for name in RESPONSE_NAMES if row[name] is not None},
        roles=training_roles(objective.terms(row["category"])) if row["weight"] > 0 else {},
    )


def training_roles(terms: Sequence[TermConfig]) -> dict[str, str]:
    """Returns what a category's terms do with each response that they read: ``preferred`` or ``suppressed``."""
    roles: dict[str, str] = {}
    for term in terms:
        roles |= dict.fromkeys(term.suppress, "suppressed") | ({term.prefer: "preferred"} if term.prefer else {})
    return roles
