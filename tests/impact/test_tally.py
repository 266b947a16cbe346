"""A shard's tally: exact, whatever the shards; its sums and quantiles against numpy's and fractions over all rows."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trace_ray.impact.shard import SHARD_SCHEMA
from trace_ray.impact.tally import IMPACTS_KEPT, Impacts, Tally, exact_sum, impacts_of, kept_share, tally
from trace_ray.impact.weights import impact_summary

CATEGORIES = ("INVERT", "PUNISH", "RETAIN")
ROWS = 211


def scored(rows: int = ROWS) -> pa.Table:
    """Impacts over 40 orders of magnitude, some of them 0; RETAIN pairs have none."""
    rng = np.random.default_rng(0)
    made: list[dict[str, Any]] = []
    for i in range(rows):
        category = CATEGORIES[i % 3]
        impact = float(rng.normal() * 10.0 ** rng.integers(-20, 20)) * (i % 7 > 0)
        made.append({"row": i, "pair_id": f"{i:032x}", "category": category, "cut": ["prompt"] * (i % 5 == 0)})
        made[-1] |= {"impact": None if category == "RETAIN" else impact, "chosen_ids": [1] * (i % 4)}
    return pa.Table.from_pylist(made, schema=SHARD_SCHEMA)


def told(table: pa.Table, share: float = 1.0) -> Tally:
    return tally(table, [{"reason": "too_long"}], CATEGORIES[:2], seed=0, share=share)


def cut(table: pa.Table, *bounds: int) -> list[pa.Table]:
    return [table.slice(start, stop - start) for start, stop in itertools.pairwise((0, *bounds, table.num_rows))]


@pytest.mark.parametrize("bounds", [(), (1,), (ROWS - 1,), (0, 3, 97, 97, 101), tuple(range(1, ROWS))])
def test_the_sum_of_shards_is_the_same_to_the_bit_however_they_are_cut(bounds: tuple[int, ...]) -> None:
    whole = told(scored(), share=0.3)
    shards = [Tally.load(told(part, share=0.3).dump()) for part in cut(scored(), *bounds)]
    for order in (shards, shards[::-1]):
        total = sum(order, Tally())
        assert (total.rows, total.impacts) == (whole.rows, whole.impacts)
        assert (total.cuts, total.tokens) == (whole.cuts, whole.tokens)
        assert total.refused == {"too_long": len(shards)}


def test_sums_are_exact_and_so_differ_from_those_that_round() -> None:
    values = np.array([row["impact"] for row in scored().to_pylist() if row["category"] == "INVERT"])
    weight = np.maximum(0.0, values)
    found = impacts_of(values, np.ones(len(values), bool))
    assert found.weight == sum(map(Fraction, weight.tolist()))
    assert found.squares == sum(map(Fraction, (weight * weight).tolist()))
    assert exact_sum(np.array([0.1] * 10)) != Fraction(sum([0.1] * 10))
    assert exact_sum(np.array([5e-324, -1.7e308, 3.0])) == Fraction(5e-324) + Fraction(-1.7e308) + 3


def test_the_report_by_category() -> None:
    values = {
        name: np.array([r["impact"] for r in scored().to_pylist() if r["category"] == name]) for name in CATEGORIES[:2]
    }
    found = impact_summary(told(scored()).impacts)
    assert set(found) == set(values)
    mass = sum(np.maximum(0, impacts).sum() for impacts in values.values())
    for name, impacts in values.items():
        weight = np.maximum(0.0, impacts)
        expected = dict(
            zip(("min", "q25", "median", "q75", "max"), np.quantile(impacts, [0, 0.25, 0.5, 0.75, 1]), strict=True)
        )
        expected |= {"count": len(impacts), "share_clamped": (impacts <= 0).mean(), "weight_share": weight.sum() / mass}
        expected |= {"effective_sample_size": weight.sum() ** 2 / (weight**2).sum()}
        assert found[name] == pytest.approx(expected)
    assert impact_summary({"none": Impacts()}) == {}


def test_a_sample_is_of_the_pairs_that_their_ids_draw_and_of_about_the_size_asked() -> None:
    few, many = (told(scored(3000), share).impacts["INVERT"].sample for share in (0.25, 0.5))
    assert set(few) < set(many)
    assert abs(len(few) - 250) < 60
    assert kept_share(IMPACTS_KEPT) == kept_share(0) == 1.0
    assert kept_share(4 * IMPACTS_KEPT) == 0.25


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told_and_counts_in_no_sum(broken: float) -> None:
    found = impacts_of(np.array([2.0, broken, -1.0]), np.ones(3, bool))
    assert (found.count, found.broken, found.clamped, float(found.weight), list(found.sample)) == (
        3,
        1,
        1,
        2.0,
        [-1.0, 2.0],
    )
    assert (found.low, found.high) == (-1.0, 2.0)
