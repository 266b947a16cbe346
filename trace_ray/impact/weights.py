"""From impacts to weights, over all conflicts of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trace_ray.config import ImpactConfig, ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.pairs import CONFLICTS, SCORED_SCHEMA

Floats = npt.NDArray[np.float64]


class Weighing:
    """The weights of a run's scored rows, which all impacts together decide.

    Args:
        tables: all scored rows, in shards; ``impact`` and ``category`` are read.
        objective: what weights are made of, and which categories have them; impact: how they are normalised.
    Raises: UserError as ``weight_scale`` and ``raw_weights`` do.
    """

    def __init__(self, tables: Iterable[pa.Table], objective: ObjectiveConfig, impact: ImpactConfig) -> None:
        self.objective = objective
        found: dict[str, list[Floats]] = {name: [] for name in objective.weighed}
        masses: dict[str, float] = dict.fromkeys(found, 0.0)
        for table in tables:
            impacts, category = _columns(table)
            raw = self._raw(impacts, category)
            for name, parts in found.items():
                parts.append(impacts[category == name])
                masses[name] += float(raw[category == name].sum())
        self._impacts = {name: np.concatenate(parts) for name, parts in found.items() if parts}
        counts = {name: len(values) for name, values in self._impacts.items() if len(values)}
        mass = {name: masses[name] for name in counts}
        self.scale = weight_scales(mass, counts, impact.weight_norm, impact.weigh_within)

    def weighed(self, table: pa.Table) -> pa.Table:
        """Returns a shard's rows with their weights, in SCORED_SCHEMA."""
        impact, category = _columns(table)
        raw = self._raw(impact, category)
        weight = raw * np.array([self.scale.get(name, 1.0) for name in category])
        full = table.append_column("weight", pa.array(weight))
        return full.select(SCORED_SCHEMA.names).cast(SCORED_SCHEMA)

    def summary(self) -> dict[str, dict[str, float]]:
        """Returns ``impact_summary`` of all rows."""
        return impact_summary(self._impacts)

    def _raw(self, impact: Floats, category: npt.NDArray[Any]) -> Floats:
        return raw_weights(impact, category, self.objective.weights, self.objective.weighed)


def _columns(table: pa.Table) -> tuple[Floats, npt.NDArray[Any]]:
    return table["impact"].to_numpy(), np.array(table["category"].to_pylist(), dtype=object)


def weight_scales(mass: Mapping[str, float], counts: Mapping[str, int], norm: str, within: str) -> dict[str, float]:
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
    average = 1.0 if norm == "mean" else 1 / pairs
    if within == "all":
        return dict.fromkeys(counts, average * pairs / sum(mass.values()))
    return {name: average * counts[name] / mass[name] if mass[name] > 0 else 0.0 for name in counts}


def raw_weights(impact: Floats, category: npt.NDArray[Any], weights: str, weighed: Sequence[str] = CONFLICTS) -> Floats:
    """Returns max(0, impact) of the weighed categories' pairs (1 if uniform) and 1 of the others, before scaling.

    Raises: UserError where an impact that counts is missing or not finite: weight 0 would drop the pair in silence.
    """
    conflict = np.isin(category, [str(c) for c in weighed])
    if weights == "uniform":
        return np.ones_like(impact)
    broken = int((conflict & ~np.isfinite(impact)).sum())
    if broken:
        raise UserError(
            "model.path",
            f"{broken} impacts are not finite",
            "its weights overflow: try model.dtype=float32, or check them",
        )
    return np.where(conflict, np.maximum(0.0, impact), 1.0)


def impact_summary(impact: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """Returns for each category of conflict its count, share clamped to 0, quantiles, effective sample size and
    share of all conflicts' weight (none where every weight is 0).

    The effective sample size is (sum w)^2 / sum w^2 of the category's weights.
    """
    summary = {}
    mass = sum(float(np.maximum(0.0, values).sum()) for values in impact.values())
    for name, values in impact.items():
        if not len(values):
            continue
        weight = np.maximum(0.0, values)
        low, quarter, median, three, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        summary[name] = {
            "count": float(len(values)),
            "share_clamped": float((values <= 0).mean()),
            "min": float(low),
            "q25": float(quarter),
            "median": float(median),
            "q75": float(three),
            "max": float(high),
            "effective_sample_size": float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300)),
            "weight_share": float(weight.sum() / mass) if mass else 0.0,
        }
    return summary
