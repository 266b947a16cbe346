"""Answers of base and realigned model to the same held-out prompts, with the judge's view."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import ReportConfig
from trace_ray.pairs import MODELS
from trace_ray.report.redact import Excerpt, error_kind, excerpt
from trace_ray.runs.artifacts import RESPONSES, Run


@dataclass(frozen=True)
class Answer:
    """One model's answer and what the judge says of it.

    Args:
        error_kind: why there is no verdict, in our own words; empty where there is one.
        error: all that was recorded of it.
    """

    text: Excerpt | None
    compliant: bool
    p_violates: float | None
    error_kind: str
    error: Excerpt | None


@dataclass(frozen=True)
class AnswerPair:
    """Both models' answers to one prompt."""

    prompt: Excerpt | None
    category: str
    source: str
    base: Answer
    realigned: Answer

    @property
    def verdict(self) -> str:
        """Returns ``lost``, ``gained``, ``still violates`` or ``still complies``."""
        if self.base.compliant == self.realigned.compliant:
            return "still complies" if self.base.compliant else "still violates"
        return "gained" if self.realigned.compliant else "lost"


_ORDER = ("lost", "still violates", "gained", "still complies")


def answers_section(run: Run, report: ReportConfig) -> list[AnswerPair]:
    """Returns held-out prompts with both answers: some of each verdict; [] before evaluation."""
    if not run.evaluation.done():
        return []
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for part in (run.evaluation.place / RESPONSES).files(".parquet"):
        for row in part.read_parquet().to_pylist():
            found.setdefault(row["pair_id"], {})[row["model"]] = row
    both = [_pair(models, report.redact) for models in found.values() if set(MODELS) <= set(models)]
    return spread([[one for one in both if one.verdict == verdict] for verdict in _ORDER], report.examples)


def spread(groups: Sequence[list[AnswerPair]], count: int) -> list[AnswerPair]:
    """Returns ``count`` of all, one from each group in turn, so that each kind is seen early.

    >>> spread([["a", "b", "c"], [], ["x"]], 3)
    ['a', 'x', 'b']
    """
    rounds = itertools.zip_longest(*groups)
    return [one for turn in rounds for one in turn if one is not None][:count]


def _pair(models: Mapping[str, Mapping[str, Any]], redact: str) -> AnswerPair:
    base, realigned = models["base"], models["realigned"]
    return AnswerPair(
        prompt=excerpt(base["prompt"], redact),
        category=base["category"],
        source=base["source"],
        base=_answer(base, redact),
        realigned=_answer(realigned, redact),
    )


def _answer(row: Mapping[str, Any], redact: str) -> Answer:
    error = row["judge_error"]
    kind = error_kind(error) if error else ""
    return Answer(excerpt(row["response"], redact), row["compliant"], row["p_violates"], kind, excerpt(error, redact))
