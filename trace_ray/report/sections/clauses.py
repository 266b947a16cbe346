"""Which clauses the responses break: as triage named them, else by the policy's own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config.policy import PolicyConfig, clause_ids
from trace_ray.judges.opinion import clauses_of
from trace_ray.judges.rules import applies, broken_clauses
from trace_ray.pairs import CONFLICTS, MODELS, prompt_text
from trace_ray.report.sections.gap import CLAUSES
from trace_ray.runs.artifacts import Run

SIDES = ("chosen", "rejected")
EXAMPLES = 2
MOST_BY_RULES = 100_000
"""Pairs up to which the report applies the rules itself, seconds."""


@dataclass
class Broken:
    """Pairs of which a response breaks one clause.

    Args:
        counts: pairs by (split, category); examples: rows of conflicts, of each category one before a second of any.
        agreed, labelled: pairs with the label's category, of those that have a label.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[Mapping[str, Any]] = field(default_factory=list)
    agreed: int = 0
    labelled: int = 0

    def add(self, row: Mapping[str, Any], sides: Sequence[str], labels: Mapping[str, str]) -> None:
        """Counts a triaged row whose ``sides`` break the clause."""
        self.counts[row["split"], row["category"]] += 1
        if row["category"] in CONFLICTS:
            self._keep({**row, "side": sides[0]})
        if (labelled := labels.get(row["pair_id"])) is not None:
            self.labelled += 1
            self.agreed += labelled == row["category"]

    def _keep(self, example: Mapping[str, Any]) -> None:
        shown = [kept["category"] for kept in self.examples]
        if len(shown) < EXAMPLES:
            self.examples.append(example)
        elif example["category"] not in shown and len(set(shown)) < len(shown):
            self.examples[-1] = example


def broken_by_clause(run: Run, policy: PolicyConfig, labels: Mapping[str, str]) -> tuple[dict[str, Broken], bool]:
    """Returns {clause: the triaged pairs that break it} and whether rules told, not triage; a pair counts once a clause.

    Args:
        labels: {pair_id: category that its label gives it}.
    """
    found: dict[str, Broken] = {}
    by_rules = not _named_by_triage(run)
    if by_rules and run.triaged.manifest()["counts"].get("triaged", 0) > MOST_BY_RULES:
        return {}, by_rules
    columns = ["pair_id", "split", "category", "prompt", *SIDES]
    for table in run.triaged.tables(columns, CLAUSES):
        for row, named in _rows(table, policy, by_rules=by_rules):
            for clause in {name for clauses in named.values() for name in clauses}:
                sides = [side for side in SIDES if clause in named[side]]
                found.setdefault(clause, Broken()).add(row, sides, labels)
    return found, by_rules


def _named_by_triage(run: Run) -> bool:
    return any(
        table[name].null_count < len(table) for table in run.triaged.tables(["pair_id"], CLAUSES) for name in CLAUSES
    )


def _rows(
    table: pa.Table, policy: PolicyConfig, *, by_rules: bool
) -> Iterator[tuple[Mapping[str, Any], dict[str, Sequence[str]]]]:
    """Yields each row of which a response breaks a clause, with the clauses by side."""
    if by_rules:
        prompts = pa.array([prompt_text(prompt) for prompt in table["prompt"].to_pylist()], pa.string())
        told = {side: broken_clauses(policy, prompts, table[side].combine_chunks()) for side in SIDES}
        named = {side: _lists(broken, len(table)) for side, broken in told.items()}
    else:
        named = {side: [clauses or () for clauses in table[f"clauses_{side}"].to_pylist()] for side in SIDES}
    hit = [i for i in range(len(table)) if any(named[side][i] for side in SIDES)]
    for i, row in zip(hit, table.take(pa.array(hit, pa.int64())).to_pylist(), strict=True):
        yield row, {side: named[side][i] for side in SIDES}


def _lists(broken: Mapping[str, Any], rows: int) -> list[Sequence[str]]:
    bits = {name: breaks.to_pylist() for name, breaks in broken.items()}
    return [[name for name, breaks in bits.items() if breaks[i]] for i in range(rows)]


def kept_by_clause(
    both: Sequence[Mapping[str, Mapping[str, Any]]], policy: PolicyConfig, threshold: float
) -> dict[str, tuple[float, ...]]:
    """Returns {clause: percent of answers that keep it, (before, after)}, over the prompts that it speaks of.

    By its rule; by the evaluation's judge, where that was asked, for a clause without one.
    """
    prompts = pa.array([answered["base"]["prompt"] for answered in both], pa.string())
    told = {
        model: broken_clauses(
            policy, prompts, pa.array([answered[model]["response"] for answered in both], pa.string())
        )
        for model in MODELS
    }
    found: dict[str, tuple[float, ...]] = {}
    for name, clause in zip(clause_ids(policy), policy.clauses, strict=True):
        if clause.rule is None:
            found |= _kept_as_judged(both, name, threshold)
            continue
        asked = pc.sum(applies(clause.rule, prompts)).as_py() or 0
        if asked:
            wrong = [pc.sum(told[model][name]).as_py() or 0 for model in MODELS]
            found[name] = tuple(100 * (1 - count / asked) for count in wrong)
    return found


def _kept_as_judged(
    both: Sequence[Mapping[str, Mapping[str, Any]]], clause: str, threshold: float
) -> dict[str, tuple[float, ...]]:
    said = [[dict(clauses_of(answers[model].get("clause_p")) or ()) for model in MODELS] for answers in both]
    told = [[p[clause] for p in answers] for answers in said if all(clause in p for p in answers)]
    if not told:
        return {}
    return {clause: tuple(100 * sum(p < threshold for p in side) / len(told) for side in zip(*told, strict=True))}
