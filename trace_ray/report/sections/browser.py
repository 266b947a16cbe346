"""Pairs to look at: a sample of every category and split, and those that weigh most, with what the judge said of each."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import ObjectiveConfig, ReportConfig, TermConfig
from trace_ray.pairs import RESPONSE_NAMES, Category, hash_fraction, prompt_text
from trace_ray.report.redact import Excerpt, excerpt
from trace_ray.runs.artifacts import Run

SIDES = ("chosen", "rejected")
NEAR = 0.2
"""Of the threshold: a P(violates) closer than this is called near."""
SHOWN = (
    "pair_id",
    "category",
    "source",
    "split",
    "prompt",
    *RESPONSE_NAMES,
    "p_violates_chosen",
    "p_violates_rejected",
)
NAMED = ("clauses_chosen", "clauses_rejected", "rationale_chosen", "rationale_rejected")


@dataclass(frozen=True)
class BrowsedPair:
    """A triaged pair as the page shows it.

    Args:
        p: P(violates) by side; clauses: that a response breaks, as triage named them.
        near: distance of the less certain side from the threshold; None where a side has no verdict.
        said: whether each side violates, as its category says; None where the judge could not tell.
        weight, impact: None where the pair was not scored; roles: response -> preferred or suppressed, empty at weight 0.
        rationales: the judge's reasons by side, where it gave any.
        characters: of prompt and responses.
    """

    pair_id: str
    category: str
    source: str
    split: str
    p: Mapping[str, float | None]
    clauses: Sequence[str]
    near: float | None
    said: Mapping[str, bool] | None
    weight: float | None
    impact: float | None
    characters: int
    prompt: Excerpt | None
    responses: Mapping[str, Excerpt | None]
    roles: Mapping[str, str]
    rationales: Mapping[str, Excerpt | None]

    @property
    def certainty(self) -> str:
        """Returns sure, near or unreadable."""
        return "unreadable" if self.near is None else "near" if self.near < NEAR else "sure"


@dataclass(frozen=True)
class Browser:
    """The pairs, heaviest first, of highest impact where all weigh alike; ``judged``: how many they are a sample of."""

    pairs: Sequence[BrowsedPair]
    judged: int

    def values(self, name: str) -> list[str]:
        """Returns the values of a filter that occur: source, split, category, certainty, or clauses."""
        every = [getattr(pair, name) for pair in self.pairs]
        flat = (item for value in every for item in ([value] if isinstance(value, str) else value))
        return sorted(set(flat))


def browser_section(run: Run, objective: ObjectiveConfig, report: ReportConfig, threshold: float) -> Browser | None:
    """Returns the pairs; None before triage is done."""
    if not run.triaged.done():
        return None
    ranked_by = _ranked_by(objective)
    scored = _scored(run, ranked_by, report.top_pairs)
    rows = {row["pair_id"]: row for row in _sample(run, report.sample)}
    lacking = set(scored) - set(rows)
    if lacking:
        wanted = pa.array(sorted(lacking), pa.string())
        for table in run.triaged.tables(list(SHOWN), NAMED):
            found = table.filter(pc.is_in(table["pair_id"], value_set=wanted))
            rows |= {row["pair_id"]: row for row in found.to_pylist()}
    scored |= _figures(run, set(rows) - set(scored))
    shown = [_shown(row, scored.get(name, {}), threshold, objective, report.redact) for name, row in rows.items()]
    judged = run.triaged.manifest()["counts"].get("triaged", len(shown))
    return Browser(sorted(shown, key=lambda pair: (-(getattr(pair, ranked_by) or 0.0), pair.pair_id)), judged)


def _ranked_by(objective: ObjectiveConfig) -> str:
    """Returns what tells pairs apart: where all weigh alike, their impact."""
    return "impact" if objective.weights == "uniform" else "weight"


def _sample(run: Run, size: int) -> list[Mapping[str, Any]]:
    """Returns ``size`` pairs, of each category and split in turn, drawn by their ids; one part is held at a time."""
    best: dict[tuple[str, str], list[tuple[float, str, Mapping[str, Any]]]] = {}
    for table in run.triaged.tables(list(SHOWN), NAMED):
        drawn = hash_fraction(table["pair_id"].to_pylist(), 0, "report")
        strata = list(zip(table["category"].to_pylist(), table["split"].to_pylist(), strict=True))
        for index in sorted(range(len(table)), key=drawn.__getitem__) if size else ():
            stratum = strata[index]
            kept = best.setdefault(stratum, [])
            if len(kept) < size or drawn[index] < kept[-1][0]:
                row = table.slice(index, 1).to_pylist()[0]
                best[stratum] = heapq.nsmallest(size, [*kept, (drawn[index], row["pair_id"], row)], key=lambda r: r[:2])
    turns = _in_turn([[row for _, _, row in kept] for _, kept in sorted(best.items())])
    return [row for _, row in zip(range(size), turns, strict=False)]


def _in_turn(groups: Sequence[Sequence[Any]]) -> Iterator[Any]:
    for at in range(max(map(len, groups), default=0)):
        yield from (group[at] for group in groups if at < len(group))


def _scored(run: Run, ranked_by: str, number: int) -> dict[str, Mapping[str, Any]]:
    """Returns weight, impact and trained category of the ``number`` pairs of highest ``ranked_by``."""
    if not run.scored.done():
        return {}
    best: list[Mapping[str, Any]] = []
    for table in run.scored.tables(["pair_id", "category", "weight", "impact"]):
        weighed = table.filter(pc.is_finite(table["impact"])).to_pylist()  # an anchor's is null
        best = heapq.nsmallest(number, [*best, *weighed], key=lambda r: (-r[ranked_by], r["pair_id"]))
    return {row["pair_id"]: row for row in best}


def _figures(run: Run, ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Returns the same of the pairs of these ids that were scored."""
    found: dict[str, Mapping[str, Any]] = {}
    if run.scored.done():
        wanted = pa.array(sorted(ids), pa.string())
        for table in run.scored.tables(["pair_id", "category", "weight", "impact"]):
            mine = table.filter(pc.is_in(table["pair_id"], value_set=wanted))
            found |= {row["pair_id"]: row for row in mine.to_pylist()}
    return found


def _shown(
    row: Mapping[str, Any], scored: Mapping[str, Any], threshold: float, objective: ObjectiveConfig, redact: str
) -> BrowsedPair:
    p = {side: row[f"p_violates_{side}"] for side in SIDES}
    told = [value for value in p.values() if value is not None]
    prompt = prompt_text(row["prompt"])
    texts = {name: row[name] for name in RESPONSE_NAMES if row[name] is not None}
    return BrowsedPair(
        pair_id=row["pair_id"],
        category=row["category"],
        source=row["source"],
        split=row["split"],
        p=p,
        clauses=sorted({clause for side in SIDES for clause in row.get(f"clauses_{side}") or ()}),
        near=min(abs(value - threshold) for value in told) if len(told) == len(SIDES) else None,
        said=said_by(row["category"], p["rejected"], threshold),
        weight=scored.get("weight"),
        impact=scored.get("impact"),
        characters=len(prompt) + sum(map(len, texts.values())),
        prompt=excerpt(prompt, redact),
        responses={name: excerpt(text, redact) for name, text in texts.items()},
        roles=_roles(scored, objective),
        rationales={side: excerpt(why, redact) for side in SIDES if (why := row.get(f"rationale_{side}"))},
    )


def said_by(category: str, p_rejected: float | None, threshold: float) -> dict[str, bool] | None:
    """Returns whether each side violates, so that ``triage.review_labels`` of it gives the category again.

    >>> said_by("INVERT", 0.1, 0.5), said_by("RETAIN", 0.9, 0.5), said_by("ABSTAIN", 0.5, 0.5)
    ({'chosen': True, 'rejected': False}, {'chosen': False, 'rejected': True}, None)
    """
    if category == Category.ABSTAIN:
        return None
    rejected = {Category.INVERT: False, Category.PUNISH: True}.get(
        Category(category), p_rejected is not None and p_rejected >= threshold
    )
    return {"chosen": category != Category.RETAIN, "rejected": rejected}


def _roles(scored: Mapping[str, Any], objective: ObjectiveConfig) -> dict[str, str]:
    return training_roles(objective.terms(scored["category"])) if (scored.get("weight") or 0) > 0 else {}


def training_roles(terms: Sequence[TermConfig]) -> dict[str, str]:
    """Returns what a category's terms do with each response that they read: ``preferred`` or ``suppressed``."""
    roles: dict[str, str] = {}
    for term in terms:
        roles |= dict.fromkeys(term.suppress, "suppressed") | ({term.prefer: "preferred"} if term.prefer else {})
    return roles
