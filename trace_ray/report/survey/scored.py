"""What the report knows of scored/: pairs, impacts and weights by category, the pairs that weigh most, and the most alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.report.survey.stretches import stretches
from trace_ray.report.survey.sums import First, Found, Sum, Sums, added, first
from trace_ray.report.survey.values import Values, values_of
from trace_ray.runs.artifacts import Run
from trace_ray.runs.weights import read_part

Figures = tuple[str, float | None, float | None]
"""A scored pair's category, weight and impact."""
COLUMNS = ("pair_id", "category", "weight", "impact")
YOUNGER = ("ches_per_token",)
ALIKE = 5
"""Pairs shown whose two responses are most alike to the model."""


@dataclass(frozen=True)
class Sought:
    """What a survey must know before it looks.

    Args:
        weighed: categories whose pairs carry weights; ranked_by: ``weight`` or ``impact``; top: pairs to show.
        ids: further pairs whose figures are wanted.
        weights: rule of the manifest that weights are made by, None where the parts hold them.
    """

    weighed: Collection[str]
    ranked_by: str
    top: int
    ids: Sequence[str]
    weights: Mapping[str, Any] | None


@dataclass(frozen=True)
class Scored(Sum):
    """Of some parts of scored/.

    Args:
        rows: pairs by category; trained: those of a weight above 0.
        impacts, weights: by weighed category.
        top: {"": (-rank, pair_id, part, figures)} of the highest rank. A pair without an impact has none.
        alike: {"": (-CHES per token, pair_id, part, figures)} of the highest among those above 0 (``impact/ches.py``).
        figures: of the pairs that were sought.
    """

    rows: Counter[str] = field(default_factory=Counter)
    trained: Counter[str] = field(default_factory=Counter)
    impacts: Sums[str, Values] = field(default_factory=Sums)
    weights: Sums[str, Values] = field(default_factory=Sums)
    top: First = field(default_factory=lambda: First(0))
    alike: First = field(default_factory=lambda: First(0))
    figures: Found[str, Figures] = field(default_factory=Found)


def survey_scored(run: Run, sought: Sought, names: Sequence[str]) -> Scored:
    """Returns the survey of some parts, each read once."""
    parts = stretches(lambda name: read_part(run.scored.place / name, list(COLUMNS), sought.weights, YOUNGER), names)
    return added((_of_rows(table, sought) for table in parts), Scored())


def _of_rows(table: pa.Table, sought: Sought) -> Scored:
    impacts, weights = (_by_category(table, kind, sought.weighed) for kind in ("impact", "weight"))
    wanted = table.filter(pc.is_in(table["pair_id"], value_set=pa.array(sought.ids, pa.string())))
    return Scored(
        _counted(table),
        _counted(table.filter(pc.greater(table["weight"], 0))),
        impacts,
        weights,
        _highest(table.filter(pc.is_finite(table["impact"])), sought.ranked_by, sought.top),
        _highest(table.filter(pc.greater(table["ches_per_token"], 0)), "ches_per_token", min(ALIKE, sought.top)),
        Found({row["pair_id"]: _figures(row) for row in wanted.to_pylist()}),
    )


def _by_category(table: pa.Table, column: str, categories: Collection[str]) -> Sums[str, Values]:
    mine = {name: table.filter(pc.equal(table["category"], name))[column] for name in categories}
    return Sums({name: values_of(column.to_numpy().astype(float)) for name, column in mine.items() if len(column)})


def _counted(table: pa.Table) -> Counter[str]:
    return Counter({str(c["values"]): c["counts"] for c in pc.value_counts(table["category"]).to_pylist()})


def _highest(table: pa.Table, column: str, size: int) -> First:
    if not size or not len(table):
        return First(size)
    keys = [(column, "descending"), ("pair_id", "ascending")]
    rows = table.take(pc.select_k_unstable(table, k=min(size, len(table)), sort_keys=keys)).to_pylist()
    return first(size, (("", (-(row[column] or 0.0), row["pair_id"], row["part"], _figures(row))) for row in rows))


def _figures(row: Mapping[str, Any]) -> Figures:
    return row["category"], row["weight"], row["impact"]
