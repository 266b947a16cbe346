"""Which clauses the responses break: as triage named them, else by the policy's own rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config.policy import PolicyConfig, clause_ids
from trace_ray.judges.opinion import clauses_of
from trace_ray.judges.rules import applies, broken_clauses
from trace_ray.pairs import CONFLICTS, MODELS
from trace_ray.report.survey.clauses import EXAMPLES, Clauses
from trace_ray.report.survey.shown import Place, Row


@dataclass(frozen=True)
class Broken:
    """Pairs of which a response breaks one clause.

    Args:
        counts: pairs by (split, category); examples: rows of conflicts, with the ``side`` that breaks it.
        agreed, labelled: pairs with the label's category, of those that have a label.
    """

    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    examples: Sequence[Row] = ()
    agreed: int = 0
    labelled: int = 0


def broken_by_clause(seen: Clauses, rows: Mapping[Place, Row]) -> dict[str, Broken]:
    """Returns {clause: the triaged pairs that break it}; a pair counts once a clause.

    Args:
        rows: of the examples, what triage says of them.
    """
    counts: dict[str, dict[tuple[str, str], int]] = {}
    for (clause, split, category), pairs in seen.counts.items():
        counts.setdefault(clause, {})[split, category] = pairs
    return {
        clause: Broken(counted, _examples(seen, rows, clause), seen.agreed[clause], seen.labelled[clause])
        for clause, counted in counts.items()
    }


def _examples(seen: Clauses, rows: Mapping[Place, Row], clause: str) -> list[Row]:
    kept = [seen.examples.kept.get((clause, category), ()) for category in CONFLICTS]
    return [{**rows[part, row], "side": side} for part, row, side in of_each(kept)]


def of_each(kinds: Iterable[Sequence[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """Returns the first EXAMPLES entries, of each kind one before a second of any.

    >>> of_each([[("a", 1), ("a", 2)], [("b", 1)]]), of_each([[("a", 1), ("a", 2)], []])
    ([('a', 1), ('b', 1)], [('a', 1), ('a', 2)])
    """
    first_of_kinds = [sorted(turn) for turn in map(_there, zip_longest(*kinds))]
    return [entry for turn in first_of_kinds for entry in turn][:EXAMPLES]


def _there(turn: Sequence[tuple[Any, ...] | None]) -> list[tuple[Any, ...]]:
    return [entry for entry in turn if entry is not None]


def broken_by_rules(
    policy: PolicyConfig, prompts: Sequence[str], responses: Sequence[str | None]
) -> list[frozenset[str]]:
    """Returns for each response the clauses whose rule it breaks; none of a response that is not there."""
    texts = pa.array(responses, pa.string())
    told = broken_clauses(policy, pa.array(prompts, pa.string()), texts)
    named = {name: pc.fill_null(bits, False).to_pylist() for name, bits in told.items()}
    return [frozenset(name for name, bits in named.items() if bits[place]) for place in range(len(texts))]


def broken_in_answers(
    rows: Sequence[Mapping[str, Any]], policy: PolicyConfig, threshold: float
) -> list[frozenset[str]]:
    """Returns for each answer the clauses that it breaks: by their rules, those without one as the evaluation's judge says.

    Args:
        rows: RESPONSE_SCHEMA's; threshold: of P(breaks), from which on a clause is broken.
    """
    ruled = broken_by_rules(policy, [row["prompt"] for row in rows], [row["response"] for row in rows])
    silent = {name for name, clause in zip(clause_ids(policy), policy.clauses, strict=True) if clause.rule is None}
    said = [dict(clauses_of(row.get("clause_p")) or ()) for row in rows]
    return [
        mine | {name for name, p in judged.items() if name in silent and p >= threshold}
        for mine, judged in zip(ruled, said, strict=True)
    ]


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
