"""Weights and their report against hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from trace_ray.config import ImpactConfig, ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.impact.weights import Weighing, impact_summary, raw_weights, weight_scales
from trace_ray.pairs import SCORED_SCHEMA

NAMES = [name for name in SCORED_SCHEMA.names if name != "weight"]
IMPACT = np.array([2.0, -1.0, 6.0, np.nan, 0.0])
CATEGORY = np.array(["INVERT", "INVERT", "PUNISH", "RETAIN", "PUNISH"], dtype=object)


def test_negative_impacts_are_clamped_and_retain_weighs_one() -> None:
    assert raw_weights(IMPACT, CATEGORY, "impact").tolist() == [2.0, 0.0, 6.0, 1.0, 0.0]
    assert raw_weights(IMPACT, CATEGORY, "uniform").tolist() == [1.0] * 5
    scored = np.array([-2.0, 1.0, -6.0, 3.0, 0.0])
    assert raw_weights(scored, CATEGORY, "u2a", ("INVERT", "PUNISH", "RETAIN")).tolist() == [0.0, 1.0, 0.0, 3.0, 0.0]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_an_impact_that_is_not_finite_is_no_weight_of_0(broken: float) -> None:
    impact = np.where(CATEGORY == "INVERT", broken, IMPACT)
    with pytest.raises(UserError, match="2 impacts are not finite"):
        raw_weights(impact, CATEGORY, "impact")
    assert raw_weights(impact, CATEGORY, "uniform").tolist() == [1.0] * 5


@pytest.mark.parametrize("within", ["all", "category"])
@pytest.mark.parametrize(("norm", "total"), [("sum", 1.0), ("mean", 4.0)])
def test_weights_of_the_conflicts_add_up(norm: str, total: float, within: str) -> None:
    raw = raw_weights(IMPACT, CATEGORY, "impact")
    scale = weight_scales({"INVERT": 2.0, "PUNISH": 6.0}, {"INVERT": 2, "PUNISH": 2}, norm, within)
    weight = {name: (raw[name == CATEGORY] * scale[name]).sum() for name in scale}
    assert sum(weight.values()) == pytest.approx(total)
    assert weight["INVERT"] / total == pytest.approx({"all": 0.25, "category": 0.5}[within])


def test_conflicts_none_of_which_helps_stop_the_run() -> None:
    for within in ("all", "category"):
        with pytest.raises(UserError, match="none of positive impact"):
            weight_scales({"INVERT": 0.0}, {"INVERT": 4}, "mean", within)
    assert weight_scales({"INVERT": 0.0, "PUNISH": 2.0}, {"INVERT": 4, "PUNISH": 1}, "mean", "category") == {
        "INVERT": 0.0,
        "PUNISH": 0.5,
    }


def test_weights_of_a_category_average_one_over_shards() -> None:
    columns = {"impact": IMPACT, "category": list(CATEGORY)}
    table = pa.table(
        {n: pa.array(columns[n]) if n in columns else pa.nulls(5, SCORED_SCHEMA.field(n).type) for n in NAMES}
    )
    weighing = Weighing([table.slice(0, 2), table.slice(2)], ObjectiveConfig(), ImpactConfig(weigh_within="category"))
    assert weighing.weighed(table)["weight"].to_pylist() == [2.0, 0.0, 2.0, 1.0, 0.0]
    pooled = Weighing([table], ObjectiveConfig(), ImpactConfig())
    assert pooled.weighed(table)["weight"].to_pylist() == [1.0, 0.0, 3.0, 1.0, 0.0]


def test_the_report_by_category() -> None:
    report = impact_summary({"INVERT": np.array([2.0, -1.0, 2.0, 0.0]), "PUNISH": np.array([6.0]), "none": np.empty(0)})
    assert set(report) == {"INVERT", "PUNISH"}
    invert = report["INVERT"]
    assert (invert["count"], invert["share_clamped"], invert["median"]) == (4.0, 0.5, 1.0)
    assert (invert["min"], invert["max"]) == (-1.0, 2.0)
    assert invert["effective_sample_size"] == pytest.approx(2.0)  # two equal weights, two of 0
    assert invert["weight_share"] == pytest.approx(0.4)
