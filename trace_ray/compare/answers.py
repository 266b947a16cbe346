"""Answers of several runs to the same held-out prompts: where they differ, and by how much, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from trace_ray.runs.artifacts import RESPONSES, Run

SHOWN = 40
COLUMNS = ["pair_id", "prompt", "source", "category", "model", "response", "compliant"]
Z = NormalDist().inv_cdf(0.975)

Answers = Mapping[str, Mapping[str, Any]]
"""{pair_id: the realigned model's answer} of one run."""


@dataclass(frozen=True)
class Difference:
    """A run against a baseline over the prompts that both answered, in points of compliance.

    Args:
        group: ``all``, or a category or a source; gained, lost: prompts that only the run, only the baseline complies on.
    """

    run: str
    group: str
    prompts: int
    gained: int
    lost: int

    @property
    def points(self) -> float:
        return 100 * (self.gained - self.lost) / self.prompts

    @property
    def interval(self) -> tuple[float, float]:
        return paired_interval(self.gained, self.lost, self.prompts)

    @property
    def clear(self) -> bool:
        low, high = self.interval
        return low > 0 or high < 0

    @property
    def tone(self) -> str:
        return ("good" if self.points > 0 else "bad") if self.clear else ""


@dataclass(frozen=True)
class Row:
    """A prompt that the runs answer differently: (text, whether it complies) by run, None where it was not asked."""

    prompt: str
    category: str
    source: str
    answers: Sequence[tuple[str, bool] | None]


def realigned_answers(run: Run) -> Answers:
    """Returns the realigned model's answers to a run's held-out prompts."""
    found: dict[str, Mapping[str, Any]] = {}
    for part in (run.evaluation.place / RESPONSES).files(".parquet"):
        rows = part.read_parquet(COLUMNS).to_pylist()
        found |= {row["pair_id"]: row for row in rows if row["model"] == "realigned"}
    return found


def paired_interval(gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """Returns the 95 % interval, in points, of a difference of two shares over the same ``pairs``.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions (2005): half a pair is
    added to each of the four cells.

    >>> [round(bound, 1) for bound in paired_interval(0, 0, 98)]
    [-2.0, 2.0]
    """
    n, b, c = pairs + 2, gained + 0.5, lost + 0.5
    spread = Z * (b + c - (b - c) ** 2 / n) ** 0.5 / n
    return max(-100.0, 100 * ((b - c) / n - spread)), min(100.0, 100 * ((b - c) / n + spread))


def run_differences(names: Sequence[str], answers: Sequence[Answers], baseline: int) -> list[Difference]:
    """Returns every other run against the baseline, by category and source; clear regressions first, then by points."""
    found = []
    for at, mine in enumerate(answers):
        if at != baseline:
            for group, (n, gained, lost) in _groups(answers[baseline], mine).items():
                found.append(Difference(names[at], group, n, gained, lost))
    return sorted(
        found,
        key=lambda difference: (
            difference.tone != "bad",
            difference.points,
            difference.group != "all",
            difference.run,
            difference.group,
        ),
    )


def _groups(base: Answers, mine: Answers) -> dict[str, tuple[int, int, int]]:
    groups: dict[str, list[int]] = {}
    for pair in sorted(base.keys() & mine.keys()):
        before, after = bool(base[pair]["compliant"]), bool(mine[pair]["compliant"])
        for group in dict.fromkeys(("all", str(mine[pair]["category"]), str(mine[pair]["source"]))):
            counts = groups.setdefault(group, [0, 0, 0])
            counts[0] += 1
            counts[1] += after and not before
            counts[2] += before and not after
    return {group: (n, gained, lost) for group, (n, gained, lost) in groups.items()}


def unlike_answers(answers: Sequence[Answers]) -> list[Row]:
    """Returns the prompts on which verdicts differ, those that most runs lose first, at most SHOWN."""
    ids = sorted({pair for of_run in answers for pair in of_run})
    rows = []
    for pair in ids:
        asked = [of_run.get(pair) for of_run in answers]
        there = [row for row in asked if row is not None]
        if len({bool(row["compliant"]) for row in there}) > 1:
            told = [None if row is None else (str(row["response"]), bool(row["compliant"])) for row in asked]
            rows.append(Row(str(there[0]["prompt"]), str(there[0]["category"]), str(there[0]["source"]), told))
    return sorted(rows, key=lambda row: sum(answer[1] for answer in row.answers if answer))[:SHOWN]
