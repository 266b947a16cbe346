"""What the report knows of refused rows: how many for which reason, with the first of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from trace_ray.report.survey.stretches import stretches
from trace_ray.report.survey.sums import First, Sum, added, first, lowest
from trace_ray.storage.location import Location

EXAMPLES = 3
COLUMNS = ("row", "source", "stage", "reason", "detail")


@dataclass(frozen=True)
class Refusals(Sum):
    """Of some parts with refused rows.

    Args:
        rows: by (stage, reason); examples: {(stage, reason): (part, place in it, row's number, source, detail)}.
    """

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: First = field(default_factory=lambda: First(EXAMPLES))


def survey_refused(parts: Sequence[Location]) -> Refusals:
    """Returns the survey of some parts, each read once."""
    by_path = {part.path: part for part in parts}
    return added(map(_of_rows, stretches(lambda path: by_path[path].read_parquet(COLUMNS), list(by_path))), Refusals())


def _of_rows(table: pa.Table) -> Refusals:
    keys = ["stage", "reason"]
    groups = table.group_by(keys, use_threads=False).aggregate([([], "count_all")]).to_pylist()
    shown = lowest(table, keys, "place", EXAMPLES).to_pylist()
    examples = (
        ((row["stage"], row["reason"]), (row["part"], row["at"], row["row"], row["source"], row["detail"]))
        for row in shown
    )
    return Refusals(Counter({(g["stage"], g["reason"]): g["count_all"] for g in groups}), first(EXAMPLES, examples))
