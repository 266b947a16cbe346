"""The weight of a scored pair: a rule in the manifest of scored/, laid over its parts as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.storage.location import Location

WEIGHT, WEIGHTS = "weight", "weights"
"""The column that readers get; in the manifest of scored/, the rule it is made by: {"of": IMPACT | ONES, "scale": {...}}.
Without a rule the parts hold the column themselves."""

IMPACT, ONES = "impact", "ones"


def pair_weights(impact: npt.NDArray[np.float64], category: pa.ChunkedArray, rule: Mapping[str, Any]) -> pa.Array:
    """Returns max(0, impact) (or 1, of ONES) times the scale of the pair's category; 1 where the category has none.

    Args:
        impact: of each pair, NaN where it has none; category: of each pair.
        rule: WEIGHTS of a manifest.
    """
    scale: Mapping[str, float] = rule["scale"]
    raw = np.ones_like(impact) if rule["of"] == ONES else np.maximum(0.0, impact)
    weight = np.ones_like(impact)
    for name, factor in scale.items():
        mine = pc.fill_null(pc.equal(category, name), False).to_numpy()
        weight[mine] = raw[mine] * factor
    return pa.array(weight)


def with_weights(table: pa.Table, rule: Mapping[str, Any]) -> pa.Table:
    """Returns scored rows (``impact`` and ``category`` at least) with their weights as the last column."""
    impact = table["impact"].to_numpy().astype(np.float64)
    return table.append_column(WEIGHT, pair_weights(impact, table["category"], rule))


def read_part(
    part: Location, columns: list[str] | None, rule: Mapping[str, Any] | None, younger: Sequence[str] = ()
) -> pa.Table:
    """Returns a part of an artefact with the columns asked for, WEIGHT among them where the manifest has a rule for it.

    Args:
        younger: further columns, which a part of an older trace-ray may lack: null there.
    """
    table = _read(part, columns, rule, younger)
    for name in younger:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), SCORED_SCHEMA.field(name).type))
    return table


def _read(
    part: Location, columns: list[str] | None, rule: Mapping[str, Any] | None, younger: Sequence[str]
) -> pa.Table:
    if rule is None or (columns is not None and WEIGHT not in columns):
        return part.read_parquet(columns, younger)
    stored = columns and list(dict.fromkeys([*(name for name in columns if name != WEIGHT), "impact", "category"]))
    table = with_weights(part.read_parquet(stored, younger), rule)
    return table.select([*columns, *(name for name in younger if name in table.column_names)]) if columns else table
