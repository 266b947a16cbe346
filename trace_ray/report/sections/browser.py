"""Pairs to look at: a sample of every category and split, and those that weigh most, with what the judge said of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import ObjectiveConfig, ReportConfig, TermConfig
from trace_ray.pairs import RESPONSE_NAMES, Category, prompt_text
from trace_ray.report.redact import Excerpt, excerpt
from trace_ray.report.survey.clauses import SIDES
from trace_ray.report.survey.surveys import Surveys, ranked_by
from trace_ray.runs.artifacts import Run

NEAR = 0.2
"""Of the threshold: a P(violates) closer than this is called near."""


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


def browser_section(
    run: Run, seen: Surveys, objective: ObjectiveConfig, report: ReportConfig, threshold: float
) -> Browser | None:
    """Returns the pairs; None before triage is done."""
    if seen.triaged is None:
        return None
    rank, rows = ranked_by(objective), [seen.rows[place] for place in seen.browsed]
    shown = [_shown(row, _figures(seen, row["pair_id"]), threshold, objective, report.redact) for row in rows]
    judged = run.triaged.manifest()["counts"].get("triaged", len(shown))
    return Browser(sorted(shown, key=lambda pair: (-(getattr(pair, rank) or 0.0), pair.pair_id)), judged)


def _figures(seen: Surveys, pair_id: str) -> Mapping[str, Any]:
    return dict(zip(("category", "weight", "impact"), seen.figures.get(pair_id, ()), strict=False))


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
