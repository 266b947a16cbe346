"""What went wrong on the way: refused rows with examples, verdicts that could not be read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trace_ray.artifacts import Run
from trace_ray.pairs import ROWS_PER_FILE
from trace_ray.report.redact import Excerpt, excerpt
from trace_ray.report.tally import count_by, published

EXAMPLES = 3
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Refused:
    """Rows refused for one reason, with a few of them."""

    stage: str
    reason: str
    rows: int
    examples: list[tuple[str, int, Excerpt | None]]


@dataclass(frozen=True)
class Problems:
    """Refused rows and unreadable verdicts, most first; ``known`` once triage is done."""

    known: bool
    refused: list[Refused]
    judge_errors: list[tuple[str, int]]

    @property
    def rows_refused(self) -> int:
        return sum(one.rows for one in self.refused)

    @property
    def unreadable(self) -> int:
        return sum(number for _, number in self.judge_errors)


def problems_section(run: Run, redact: str) -> Problems:
    """Returns what triage refused or could not read; empty before it is done."""
    return Problems(
        known=run.triaged.done(),
        refused=refused_rows(run, redact) if run.rejects.done() else [],
        judge_errors=judge_errors(run) if run.triaged.done() else [],
    )


def refused_rows(run: Run, redact: str) -> list[Refused]:
    """Returns the refused rows by stage and reason, with the first EXAMPLES of each."""
    counted: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for table in published(run.rejects, ["row", "source", "stage", "reason", "detail"]):
        for row in table.to_pylist():
            key = row["stage"], row["reason"]
            counted[key] += 1
            if len(examples.setdefault(key, [])) < EXAMPLES:
                examples[key].append(row)
    return [
        Refused(stage, reason, rows, [_example(row, redact) for row in examples[stage, reason]])
        for (stage, reason), rows in counted.most_common()
    ]


def _example(row: Mapping[str, Any], redact: str) -> tuple[str, int, Excerpt | None]:
    return row["source"], row["row"] % ROWS_PER_FILE + 1, excerpt(row["detail"], redact)


def judge_errors(run: Run) -> list[tuple[str, int]]:
    """Returns the reasons for missing verdicts, figures in them made alike so that like reasons count together."""
    kinds: Counter[str] = Counter()
    for (error,), rows in count_by(run.triaged, ["judge_error"]).items():
        if error is not None:
            kinds[_NUMBER.sub("N", error)] += rows
    return kinds.most_common()
