"""Which clauses the responses break, counted: as triage named them, else by the policy's own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config.policy import PolicyConfig
from trace_ray.judges.rules import broken_clauses
from trace_ray.pairs import CONFLICTS, prompt_text
from trace_ray.report.survey.stretches import stretches
from trace_ray.report.survey.sums import First, Sum, added, first, lowest
from trace_ray.runs.artifacts import Run

SIDES = ("chosen", "rejected")
NAMED = ("clauses_chosen", "clauses_rejected")
"""Columns in which triage names them; parts of an older trace-ray lack them."""
BY_RULES = ("pair_id", "split", "category", "prompt", *SIDES)
"""Columns that rules are applied to."""
EXAMPLES = 2
"""Pairs of each clause and category of conflict that are remembered."""

Labels = Mapping[str, str]
"""{pair_id: category that its label gives it}."""


@dataclass(frozen=True)
class Clauses(Sum):
    """Pairs of which a response breaks a clause; each counts once a clause.

    Args:
        named: responses whose clauses triage told, none of them too.
        counts: pairs by (clause, split, category).
        labelled, agreed: pairs by clause that have a label, and those whose category it gives.
        examples: {(clause, category): (part, row of it, side)} of conflicts.
    """

    named: int = 0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)
    agreed: Counter[str] = field(default_factory=Counter)
    examples: First = field(default_factory=lambda: First(EXAMPLES))

    def example_places(self) -> list[tuple[str, int]]:
        """Returns the part and row of every example."""
        return [(part, row) for kept in self.examples.kept.values() for part, row, _ in kept]


def clauses_named(table: pa.Table, labels: Labels) -> Clauses:
    """Returns the Clauses of a stretch as triage named them; it holds pair_id, split, category and NAMED."""
    lists = [table[name].combine_chunks() for name in NAMED]
    named = sum(len(told) - told.null_count for told in lists)
    sides = [(pc.list_parent_indices(told), pc.list_flatten(told)) for told in lists]
    return _counted(table, sides, labels, named)


def survey_rules(run: Run, policy: PolicyConfig, labels: Labels, names: Sequence[str]) -> Clauses:
    """Returns the Clauses of some parts of triaged/ by the policy's rules, which read the texts."""
    parts = stretches(lambda name: (run.triaged.place / name).read_parquet(BY_RULES), names)
    return added((_by_rules(table, policy, labels) for table in parts), Clauses())


def _by_rules(table: pa.Table, policy: PolicyConfig, labels: Labels) -> Clauses:
    prompts = pa.array([prompt_text(prompt) for prompt in table["prompt"].to_pylist()], pa.string())
    return _counted(table, [_broken(policy, prompts, table[side].combine_chunks()) for side in SIDES], labels, 0)


def _broken(policy: PolicyConfig, prompts: pa.Array, responses: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Returns a row's number and a clause that it breaks, of all that break one."""
    told = broken_clauses(policy, prompts, responses)
    rows = [np.flatnonzero(pc.fill_null(bits, False)) for bits in told.values()]
    names = np.repeat(np.array(list(told), dtype=object), list(map(len, rows)))
    return pa.array(np.concatenate([np.empty(0, np.int64), *rows])), pa.array(names, pa.string())


def _counted(table: pa.Table, sides: list[tuple[pa.Array, pa.Array]], labels: Labels, named: int) -> Clauses:
    """Counts a stretch.

    Args:
        sides: (places of rows, clauses that they break), of each of SIDES.
    """
    side = np.repeat(np.arange(len(sides)), [len(rows) for rows, _ in sides])
    rows, clauses = (pa.concat_arrays([told[i].cast(kind) for told in sides]) for i, kind in enumerate(_KINDS))
    if not len(rows):
        return Clauses(named)
    each = pa.table({"place": rows, "clause": clauses, "side": side})
    each = each.group_by(["place", "clause"], use_threads=False).aggregate([("side", "min")])
    for name in ("pair_id", "split", "category", "part", "at"):
        each = each.append_column(name, table[name].take(each["place"]))
    return Clauses(named, _counts(each), *_labelled(each, labels), _examples(each))


_KINDS = (pa.int64(), pa.string())


def _counts(each: pa.Table) -> Counter[tuple[str, str, str]]:
    keys = ["clause", "split", "category"]
    groups = each.group_by(keys, use_threads=False).aggregate([([], "count_all")]).to_pylist()
    return Counter({tuple(group[key] for key in keys): group["count_all"] for group in groups})


def _labelled(each: pa.Table, labels: Labels) -> tuple[Counter[str], Counter[str]]:
    if not labels:
        return Counter(), Counter()
    mine = each.filter(pc.is_in(each["pair_id"], value_set=pa.array(labels, pa.string()))).to_pylist()
    agreed = (row["clause"] for row in mine if labels[row["pair_id"]] == row["category"])
    return Counter(row["clause"] for row in mine), Counter(agreed)


def _examples(each: pa.Table) -> First:
    conflicts = each.filter(pc.is_in(each["category"], value_set=pa.array(CONFLICTS, pa.string())))
    kept: list[dict[str, Any]] = lowest(conflicts, ["clause", "category"], "place", EXAMPLES).to_pylist()
    told = (((row["clause"], row["category"]), (row["part"], row["at"], SIDES[row["side_min"]])) for row in kept)
    return first(EXAMPLES, told)
