"""How far the corpus is from the new policy: the share of each category, in all, by source and by clause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from trace_ray.pairs import CONFLICTS, Category
from trace_ray.report.survey.clauses import Clauses
from trace_ray.report.survey.surveys import Surveys
from trace_ray.runs.artifacts import Run

ALL = "all pairs"
SHOWN_GROUPS = 12


@dataclass(frozen=True)
class Shares:
    """Pairs of one group by category."""

    name: str
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def conflicts(self) -> int:
        return sum(self.counts.get(name, 0) for name in CONFLICTS)

    def percent(self, category: str) -> float:
        """Returns the category's share in percent, 0 for a group of no pair."""
        return 100 * self.counts.get(category, 0) / max(1, self.total)


@dataclass(frozen=True)
class Gap:
    """The alignment-reality gap.

    Args:
        rows_in: rows read; rejects: of these, or of the pairs that they made, what is no pair.
        extra: pairs beyond one a row: a ranked set makes several.
        overall: every judged pair; by_source: largest first, the small ones together as one group.
        by_clause: pairs of which a response breaks the clause, most first; empty where triage named no clauses.
    """

    rows_in: int
    rejects: int
    overall: Shares
    by_source: list[Shares]
    by_clause: list[Shares]
    extra: int = 0

    @property
    def made(self) -> int:
        """Pairs and rejects made of the rows."""
        return self.rows_in + self.extra


def gap_section(run: Run, seen: Surveys) -> Gap | None:
    """Returns the gap; None before triage is done."""
    if seen.triaged is None:
        return None
    counts = run.triaged.manifest()["counts"]
    return Gap(
        rows_in=counts["rows_in"],
        rejects=counts["rejects"],
        overall=Shares(ALL, {category: pairs for (category,), pairs in seen.triaged.by("category").items()}),
        by_source=largest(_shares(seen.triaged.by("source", "category"))),
        by_clause=clause_shares(seen.triaged.clauses),
        extra=counts.get("extra_pairs", 0),
    )


def _shares(counted: Mapping[tuple[str, ...], int]) -> list[Shares]:
    """Returns the groups of pairs by (group, category)."""
    groups: dict[str, Counter[str]] = {}
    for (name, category), pairs in counted.items():
        groups.setdefault(name, Counter())[category] += pairs
    return [Shares(name, found) for name, found in groups.items()]


def largest(groups: list[Shares], keep: int = SHOWN_GROUPS) -> list[Shares]:
    """Returns the groups by size, those after the first ``keep`` summed into one."""
    ordered = sorted(groups, key=lambda group: (-group.total, group.name))
    if len(ordered) <= keep + 1:
        return ordered
    rest: Counter[str] = sum((Counter(group.counts) for group in ordered[keep:]), Counter())
    return [*ordered[:keep], Shares(f"{len(ordered) - keep} other sources", rest)]


def clause_shares(clauses: Clauses) -> list[Shares]:
    """Returns the pairs by clause and category, most first; a pair that breaks several clauses counts with each, once."""
    counted: Counter[tuple[str, ...]] = Counter()
    for (clause, _, category), pairs in clauses.counts.items():
        counted[clause, category] += pairs
    return sorted(_shares(counted), key=lambda group: (-group.total, group.name))


CATEGORY_MEANING = {
    Category.RETAIN: "the preferred response still complies: kept as an anchor",
    Category.INVERT: "only the rejected response complies: the preference is now backwards",
    Category.PUNISH: "neither response complies: both are pushed down, or a corrected one is preferred",
    Category.ABSTAIN: "the judge could not tell: nobody trains on it",
}
