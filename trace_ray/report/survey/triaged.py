"""What the report knows of triaged/: one pass over its columns of figures; texts are read of the pairs that are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.report.redact import error_kinds
from trace_ray.report.survey.clauses import NAMED, SIDES, Clauses, Labels, clauses_named
from trace_ray.report.survey.stretches import stretches
from trace_ray.report.survey.sums import First, Sum, added, first, lowest
from trace_ray.runs.artifacts import Run
from trace_ray.runs.weights import read_part

BINS = 20
"""Of P(violates), equal ones."""
UNREADABLE = -1
"""In the place of a bin: no P(violates)."""
GROUPS = ("source", "split", "category")
COLUMNS = ("pair_id", *GROUPS, *(f"p_violates_{side}" for side in SIDES), "judge_error")


@dataclass(frozen=True)
class Asked:
    """What a survey must know before it looks.

    Args:
        threshold: of P(violates), from which on a response violates.
        sample: pairs to show; labels: of pairs, where an audit had some.
    """

    threshold: float
    sample: int
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True)
class Triaged(Sum):
    """Of some parts of triaged/.

    Args:
        counts: pairs by (source, split, category).
        verdicts: responses that are ``violating`` and ``compliant`` by P(violates).
        certainty: responses by (side, bin of P(violates)).
        errors: pairs by what kind of thing kept the judge from a verdict; said: {kind: (part, row, error)}, the first.
        clauses: as triage named them.
        sample: {(category, split): (pair_id, part, row)} of the lowest ids. They are hashes of what the pairs hold, so these
            are drawn blindly, and whatever the parts.
    """

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    certainty: Counter[tuple[str, int]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    said: First = field(default_factory=lambda: First(1))
    clauses: Clauses = field(default_factory=Clauses)
    sample: First = field(default_factory=lambda: First(0))

    @property
    def pairs(self) -> int:
        return sum(self.counts.values())

    def by(self, *names: str) -> Counter[tuple[str, ...]]:
        """Returns the pairs by some of GROUPS."""
        places = [GROUPS.index(name) for name in names]
        counted: Counter[tuple[str, ...]] = Counter()
        for key, pairs in self.counts.items():
            counted[tuple(key[place] for place in places)] += pairs
        return counted


def survey_triaged(run: Run, asked: Asked, names: Sequence[str]) -> Triaged:
    """Returns the survey of some parts, each read once."""
    parts = stretches(lambda name: read_part(run.triaged.place / name, list(COLUMNS), None, NAMED), names)
    return added((_of_rows(table, asked) for table in parts), Triaged())


def _of_rows(table: pa.Table, asked: Asked) -> Triaged:
    groups = table.group_by(list(GROUPS), use_threads=False).aggregate([([], "count_all")]).to_pylist()
    told = {side: table[f"p_violates_{side}"].drop_null().to_numpy() for side in SIDES}
    violating = sum(int((p >= asked.threshold).sum()) for p in told.values())
    kinds, said = _errors(table)
    return Triaged(
        Counter({_group(group): group["count_all"] for group in groups}),
        Counter(violating=violating, compliant=sum(map(len, told.values())) - violating),
        Counter({key: number for key, number in _binned(told, len(table)) if number}),
        kinds,
        said,
        clauses_named(table, asked.labels),
        _sample(table, asked.sample),
    )


def _group(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row["source"]), str(row["split"]), str(row["category"])


def _binned(told: Mapping[str, np.ndarray], pairs: int) -> Iterator[tuple[tuple[str, int], int]]:
    for side, p in told.items():
        yield (side, UNREADABLE), pairs - len(p)
        for place, responses in enumerate(np.histogram(p, bins=BINS, range=(0.0, 1.0))[0].tolist()):
            yield (side, place), responses


def _errors(table: pa.Table) -> tuple[Counter[str], First]:
    mine = table.select(["part", "at", "place", "judge_error"]).filter(table["judge_error"].is_valid())
    if not len(mine):
        return Counter(), First(1)
    mine = mine.append_column("kind", error_kinds(mine["judge_error"]))
    counted = pc.value_counts(mine["kind"]).to_pylist()
    said = lowest(mine, ["kind"], "place", 1).to_pylist()
    return (
        Counter({kind["values"]: kind["counts"] for kind in counted}),
        first(1, ((row["kind"], (row["part"], row["at"], row["judge_error"])) for row in said)),
    )


def _sample(table: pa.Table, size: int) -> First:
    if not size:
        return First(0)
    drawn = lowest(table.select(["pair_id", "category", "split", "part", "at"]), ["category", "split"], "pair_id", size)
    strata = zip(*(map(str, drawn[name].to_pylist()) for name in ("category", "split")), strict=True)
    entries = zip(*(drawn[name].to_pylist() for name in ("pair_id", "part", "at")), strict=True)
    return first(size, zip(strata, entries, strict=True))
