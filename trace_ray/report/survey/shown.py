"""Rows with their texts, of the few pairs that the page shows: read from the parts that hold them, and from no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.pairs import RESPONSE_NAMES
from trace_ray.report.survey.clauses import NAMED
from trace_ray.report.survey.sums import Found
from trace_ray.runs.artifacts import Run
from trace_ray.runs.weights import read_part

Place = tuple[str, int]
"""A pair's part in triaged/, and its row there."""
Row = Mapping[str, Any]
COLUMNS = (
    "pair_id",
    "category",
    "source",
    "split",
    "prompt",
    *RESPONSE_NAMES,
    "p_violates_chosen",
    "p_violates_rejected",
)
YOUNGER = (*NAMED, "rationale_chosen", "rationale_rejected")


def by_part(places: Iterable[Place]) -> dict[str, list[int]]:
    """Returns {part: rows}, each once, in order.

    >>> by_part([("b", 2), ("a", 1), ("b", 0), ("b", 2)])
    {'a': [1], 'b': [0, 2]}
    """
    found: dict[str, list[int]] = {}
    for part, row in sorted(set(places)):
        found.setdefault(part, []).append(row)
    return found


def shown_rows(run: Run, wanted: Mapping[str, Sequence[int]], names: Sequence[str]) -> Found[Place, Row]:
    """Returns what is shown of the ``wanted`` rows, {part: rows}, of some parts."""
    found = Found[Place, Row]()
    for name in names:
        table = read_part(run.triaged.place / name, list(COLUMNS), None, YOUNGER).take(pa.array(wanted[name]))
        found += Found({(name, row): told for row, told in zip(wanted[name], table.to_pylist(), strict=True)})
    return found


def places_of(run: Run, ids: Sequence[str], names: Sequence[str]) -> Found[str, Place]:
    """Returns where the pairs of these ids are in some parts of triaged/."""
    wanted, found = pa.array(ids, pa.string()), Found[str, Place]()
    for name in names:
        there = (run.triaged.place / name).read_parquet(["pair_id"])["pair_id"]
        rows = np.flatnonzero(pc.is_in(there, value_set=wanted))
        found += Found({there[row].as_py(): (name, row) for row in rows.tolist()})
    return found


def parts_of_shards(parts: Sequence[str], shards: Iterable[str]) -> list[str]:
    """Returns the parts of triaged/ that shards of scored/ were made of, by their names; all, where one tells none.

    >>> parts_of_shards(["a.parquet", "b.parquet"], ["b-000000000.parquet"])
    ['b.parquet']
    """
    named = {f"{shard.rpartition('-')[0]}.parquet" for shard in shards}
    return sorted(named) if named <= set(parts) else list(parts)
