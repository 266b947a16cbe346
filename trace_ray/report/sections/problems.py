"""What went wrong on the way: refused rows with examples, verdicts that could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from trace_ray.chat.told import cut_warning
from trace_ray.pairs import line_of
from trace_ray.report.redact import Excerpt, error_kind, excerpt
from trace_ray.report.tally import count_by
from trace_ray.runs.anew import stopped_at
from trace_ray.runs.artifacts import REFUSED, Run

EXAMPLES = 3
ERROR_KINDS = 10


@dataclass(frozen=True)
class Refused:
    """Rows refused for one reason, with a few of them."""

    stage: str
    reason: str
    rows: int
    examples: list[tuple[str, int, Excerpt | None]]


@dataclass(frozen=True)
class JudgeErrors:
    """Pairs whose verdict is missing for one kind of reason, with one reason as it was recorded."""

    kind: str
    pairs: int
    example: Excerpt | None


@dataclass(frozen=True)
class Problems:
    """Refused rows and unreadable verdicts, most first.

    Args:
        known: whether triage is done.
        cut: what is to be said about training rows that lost text to model.max_length, or were refused.
        judge_errors: every kind; the page shows ERROR_KINDS of them.
        stopped: {stage: the mistake at which it stopped}, of stages that are not done.
    """

    known: bool
    refused: list[Refused]
    judge_errors: list[JudgeErrors]
    cut: str = ""
    stopped: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows_refused(self) -> int:
        return sum(refusal.rows for refusal in self.refused)

    @property
    def unreadable(self) -> int:
        return sum(errors.pairs for errors in self.judge_errors)

    @property
    def shown_errors(self) -> list[JudgeErrors]:
        return self.judge_errors[:ERROR_KINDS]


def problems_section(run: Run, redact: str) -> Problems:
    """Returns what triage refused or could not read; empty before it is done."""
    return Problems(
        known=run.triaged.done(),
        refused=refused_rows(run, redact) if run.rejects.done() else [],
        cut=_cut(run.impact.manifest()) if run.impact.done() else "",
        judge_errors=judge_errors(run, redact) if run.triaged.done() else [],
        stopped={stage: _mistake(said, redact) for stage, said in stopped_at(run).items()},
    )


def _mistake(said: str, redact: str) -> str:
    """A mistake may repeat a row: where texts are left out of the page, its place alone is told."""
    return said.partition(":")[0] if redact == "omit" else said


def _cut(impact: Mapping[str, Any]) -> str:
    """What impact's manifest says; runs of old do not."""
    return cut_warning(impact["cuts"], impact["refused"], impact["max_length"]) if "cuts" in impact else ""


def refused_rows(run: Run, redact: str) -> list[Refused]:
    """Returns the rows that triage and impact refused by stage and reason, with the first EXAMPLES of each."""
    counted: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    columns = ["row", "source", "stage", "reason", "detail"]
    later = (part.read_parquet(columns) for part in (run.impact.place / REFUSED).files(".parquet"))
    for table in chain(run.rejects.tables(columns), later):
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
    return row["source"], line_of(row["row"]), excerpt(row["detail"], redact)


def judge_errors(run: Run, redact: str) -> list[JudgeErrors]:
    """Returns the reasons for missing verdicts by their kind: an endpoint's own words make each one different."""
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for (error,), rows in count_by(run.triaged, ["judge_error"]).items():
        if error is not None:
            kinds[error_kind(error)] += rows
            examples.setdefault(error_kind(error), error)
    return [JudgeErrors(kind, pairs, excerpt(examples[kind], redact)) for kind, pairs in kinds.most_common()]
