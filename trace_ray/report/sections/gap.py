"""How far the corpus is from the new policy: the share of each category, in all, by source and by clause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from trace_ray.artifacts import Run
from trace_ray.pairs import CONFLICTS, Category
from trace_ray.report.tally import count_by

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
        rows_in: rows read; rejects: of these, rows that are no pair.
        overall: every judged pair; by_source: largest first, the small ones together as one group.
        clauses: (clause, violating responses attributed to it), most first; empty where the judge names none.
    """

    rows_in: int
    rejects: int
    overall: Shares
    by_source: list[Shares]
    clauses: list[tuple[str, int]]


def gap_section(run: Run) -> Gap | None:
    """Returns the gap; None before triage is done."""
    if not run.triaged.done():
        return None
    counted = count_by(run.triaged, ["source", "category"])
    groups: dict[str, Counter[str]] = {}
    for (source, category), number in counted.items():
        groups.setdefault(str(source), Counter())[str(category)] += number
    overall: Counter[str] = sum(groups.values(), Counter())
    counts = run.triaged.manifest()["counts"]
    return Gap(
        rows_in=counts["rows_in"],
        rejects=counts["rejects"],
        overall=Shares("all pairs", overall),
        by_source=largest([Shares(name, found) for name, found in groups.items()]),
        clauses=clause_counts(counts),
    )


def largest(groups: list[Shares], keep: int = SHOWN_GROUPS) -> list[Shares]:
    """Returns the groups by size, those after the first ``keep`` summed into one."""
    ordered = sorted(groups, key=lambda group: (-group.total, group.name))
    if len(ordered) <= keep + 1:
        return ordered
    rest: Counter[str] = sum((Counter(group.counts) for group in ordered[keep:]), Counter())
    return [*ordered[:keep], Shares(f"{len(ordered) - keep} other sources", rest)]


def clause_counts(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Returns what triage counted as ``clause NAME``: violating responses by the clause that they break."""
    found = [(name.removeprefix("clause "), n) for name, n in counts.items() if name.startswith("clause ")]
    return sorted(found, key=lambda item: (-item[1], item[0]))


CATEGORY_MEANING = {
    Category.RETAIN: "the preferred response still complies: kept as an anchor",
    Category.INVERT: "only the rejected response complies: the preference is now backwards",
    Category.PUNISH: "neither response complies: both are pushed down, or a corrected one is preferred",
    Category.ABSTAIN: "the judge could not tell: nobody trains on it",
}
