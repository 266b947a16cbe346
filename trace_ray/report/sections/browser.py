"""Pairs to look at: a sample of every category and split, and those that weigh most, with what the judge said of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import Config, ObjectiveConfig, TermConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.pairs import RESPONSE_NAMES, Category, prompt_text
from trace_ray.report.redact import Excerpt, excerpt
from trace_ray.report.sections.clauses import broken_by_rules
from trace_ray.report.survey.clauses import SIDES
from trace_ray.report.survey.surveys import Surveys, ranked_by
from trace_ray.runs.artifacts import Run

NEAR = 0.2
"""Of the threshold: a P(violates) closer than this is called near."""


@dataclass(frozen=True)
class BrowsedPair:
    """A triaged pair as the page shows it.

    Args:
        p: P(violates) by side; clauses: that a response breaks, as triage named them, else by the policy's rules.
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


def browser_section(run: Run, seen: Surveys, config: Config, threshold: float) -> Browser | None:
    """Returns the pairs; None before triage is done."""
    if seen.triaged is None:
        return None
    rank, rows = ranked_by(config.objective), [seen.rows[place] for place in seen.browsed]
    broken = _by_rules(config.policy, rows) if seen.by_rules else [_named(row) for row in rows]
    shown = [
        _shown(row, names, _figures(seen, row["pair_id"]), threshold, config)
        for row, names in zip(rows, broken, strict=True)
    ]
    judged = run.triaged.manifest()["counts"].get("triaged", len(shown))
    return Browser(sorted(shown, key=lambda pair: (-(getattr(pair, rank) or 0.0), pair.pair_id)), judged)


def _figures(seen: Surveys, pair_id: str) -> Mapping[str, Any]:
    return dict(zip(("category", "weight", "impact"), seen.figures.get(pair_id, ()), strict=False))


def _named(row: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(clause for side in SIDES for clause in row.get(f"clauses_{side}") or ())


def _by_rules(policy: PolicyConfig, rows: Sequence[Mapping[str, Any]]) -> list[frozenset[str]]:
    prompts = [prompt_text(row["prompt"]) for row in rows]
    sides = [broken_by_rules(policy, prompts, [row[side] for row in rows]) for side in SIDES]
    return [frozenset().union(*told) for told in zip(*sides, strict=True)]


def _shown(
    row: Mapping[str, Any], clauses: Iterable[str], scored: Mapping[str, Any], threshold: float, config: Config
) -> BrowsedPair:
    redact = config.report.redact
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
        clauses=sorted(clauses),
        near=min(abs(value - threshold) for value in told) if len(told) == len(SIDES) else None,
        said=said_by(row["category"], p["rejected"], threshold),
        weight=scored.get("weight"),
        impact=scored.get("impact"),
        characters=len(prompt) + sum(map(len, texts.values())),
        prompt=excerpt(prompt, redact),
        responses={name: excerpt(text, redact) for name, text in texts.items()},
        roles=_roles(scored, config.objective),
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
