"""What went wrong on the way: refused rows with examples, verdicts that could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trace_ray.chat.told import cut_warning
from trace_ray.pairs import line_of
from trace_ray.report.redact import Excerpt, excerpt
from trace_ray.report.survey.refused import Refusals
from trace_ray.report.survey.surveys import Surveys
from trace_ray.report.survey.triaged import Triaged
from trace_ray.runs.anew import stopped_at
from trace_ray.runs.artifacts import Run

ERROR_KINDS = 10
Key = TypeVar("Key", str, tuple[str, str])


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


def problems_section(run: Run, seen: Surveys, redact: str) -> Problems:
    """Returns what triage refused or could not read; empty before it is done."""
    return Problems(
        known=run.triaged.done(),
        refused=refused_rows(seen.refused, redact),
        cut=_cut(run.impact.manifest()) if run.impact.done() else "",
        judge_errors=judge_errors(seen.triaged, redact) if seen.triaged else [],
        stopped={stage: _mistake(said, redact) for stage, said in stopped_at(run).items()},
    )


def _mistake(said: str, redact: str) -> str:
    """A mistake may repeat a row: where texts are left out of the page, its place alone is told."""
    return said.partition(":")[0] if redact == "omit" else said


def _cut(impact: Mapping[str, Any]) -> str:
    """What impact's manifest says; runs of old do not."""
    return cut_warning(impact["cuts"], impact["refused"], impact["max_length"]) if "cuts" in impact else ""


def refused_rows(seen: Refusals, redact: str) -> list[Refused]:
    """Returns the rows that triage and impact refused by stage and reason, with the first few of each."""
    return [
        Refused(*key, rows, [_example(entry, redact) for entry in seen.examples.kept[key]])
        for key, rows in _most(seen.rows)
    ]


def _most(counted: Mapping[Key, int]) -> list[tuple[Key, int]]:
    """Most first, and in an order that no part decides."""
    return sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))


def _example(entry: tuple[Any, ...], redact: str) -> tuple[str, int, Excerpt | None]:
    *_, row, source, detail = entry
    return source, line_of(row), excerpt(detail, redact)


def judge_errors(seen: Triaged, redact: str) -> list[JudgeErrors]:
    """Returns the reasons for missing verdicts by their kind: an endpoint's own words make each one different."""
    return [
        JudgeErrors(kind, pairs, excerpt(seen.said.kept[kind][0][-1], redact)) for kind, pairs in _most(seen.errors)
    ]
