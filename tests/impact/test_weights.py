"""The rule of weights, and the weights that readers make by it, against hand-worked numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trace_ray.config import ImpactConfig, ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.impact.shard import SHARD_SCHEMA
from trace_ray.impact.tally import Tally, tally
from trace_ray.impact.weights import weight_rule, weight_scales
from trace_ray.runs.weights import with_weights

IMPACT = (2.0, -1.0, 6.0, None, 0.0)
CATEGORY = ("INVERT", "INVERT", "PUNISH", "RETAIN", "PUNISH")
PAIR = ObjectiveConfig(retain="pair", weights="u2a")


def table(impact: Any = IMPACT) -> pa.Table:
    rows = [
        {"pair_id": str(i), "category": name, "impact": value, "cut": []}
        for i, (name, value) in enumerate(zip(CATEGORY, impact, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)


def rule(scored: pa.Table, objective: ObjectiveConfig | None = None, cut: int = 2, **impact: Any) -> dict[str, Any]:
    """The rule of rows in two shards."""
    objective = objective or ObjectiveConfig()
    parts = (scored.slice(0, cut), scored.slice(cut))
    told = sum((tally(part, [], objective.weighed, 0, 1.0) for part in parts), Tally())
    return weight_rule(told.impacts, objective, ImpactConfig(**impact))


def weights(scored: pa.Table, objective: ObjectiveConfig | None = None, **impact: Any) -> list[float]:
    return list(with_weights(scored, rule(scored, objective, **impact))["weight"].to_pylist())


def test_negative_impacts_are_clamped_and_retain_weighs_one() -> None:
    assert weights(table()) == [1.0, 0.0, 3.0, 1.0, 0.0]  # 2, 0, 6, -, 0, of which four average 1
    assert weights(table(), weight_norm="sum") == [0.25, 0.0, 0.75, 1.0, 0.0]
    assert weights(table(), ObjectiveConfig(weights="uniform")) == [1.0] * 5
    assert weights(table(), ObjectiveConfig(weights="uniform"), weight_norm="sum") == [0.25, 0.25, 0.25, 1.0, 0.25]
    assert weights(table((-2.0, 1.0, -6.0, 3.0, 0.0)), PAIR) == [0.0, 1.25, 0.0, 3.75, 0.0]


def test_weights_of_a_category_average_one_over_shards() -> None:
    assert weights(table(), weigh_within="category") == [2.0, 0.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_an_impact_that_is_not_finite_is_no_weight_of_0(broken: float) -> None:
    lost = table((broken, broken, 6.0, None, 0.0))
    for cut in (1, 2):  # in one shard or in two
        with pytest.raises(UserError, match="2 impacts are not finite"):
            rule(lost, cut=cut)
    assert weights(lost, ObjectiveConfig(weights="uniform")) == [1.0] * 5


@pytest.mark.parametrize("within", ["all", "category"])
@pytest.mark.parametrize(("norm", "total"), [("sum", 1.0), ("mean", 4.0)])
def test_weights_of_the_conflicts_add_up(norm: str, total: float, within: str) -> None:
    made = weights(table(), weight_norm=norm, weigh_within=within)
    by = {name: sum(w for w, of in zip(made, CATEGORY, strict=True) if of == name) for name in ("INVERT", "PUNISH")}
    assert sum(by.values()) == pytest.approx(total)
    assert by["INVERT"] / total == pytest.approx({"all": 0.25, "category": 0.5}[within])


def test_conflicts_none_of_which_helps_stop_the_run() -> None:
    nothing, two = Fraction(0), Fraction(2)
    for within in ("all", "category"):
        with pytest.raises(UserError, match="none of positive impact"):
            weight_scales({"INVERT": nothing}, {"INVERT": 4}, "mean", within)
    scales = weight_scales({"INVERT": nothing, "PUNISH": two}, {"INVERT": 4, "PUNISH": 1}, "mean", "category")
    assert scales == {"INVERT": 0.0, "PUNISH": 0.5}
