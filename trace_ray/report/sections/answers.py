"""Answers of base and realigned model to the same held-out prompts, with the judge's view."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import ReportConfig
from trace_ray.look.words import Piece, word_diff
from trace_ray.report.redact import Excerpt, error_kind, excerpt
from trace_ray.report.sections.worse import answers_of_both
from trace_ray.runs.artifacts import Run


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

    @property
    def changed(self) -> bool:
        """Returns whether the shown texts differ in a word; False where they are left out of the page."""
        base, realigned = self.base.text, self.realigned.text
        return bool(base and realigned and base.text.split() != realigned.text.split())

    @property
    def words(self) -> list[Piece]:
        """Returns what only the base says and what only the realigned model says, where both texts are short and plain."""
        base, realigned = self.base.text, self.realigned.text
        plain = all(text and not text.cut and "\n" not in text.text for text in (base, realigned))
        return word_diff(base.text, realigned.text) if plain and base and realigned and self.changed else []


_ORDER = ("lost", "still violates", "gained", "still complies")


def answers_section(run: Run, report: ReportConfig) -> list[AnswerPair]:
    """Returns held-out prompts with both answers: some of each verdict; [] before evaluation."""
    if not run.evaluation.done():
        return []
    both = [_pair(models, report.redact) for models in answers_of_both(run)]
    return spread([[pair for pair in both if pair.verdict == verdict] for verdict in _ORDER], report.examples)


def spread(groups: Sequence[list[AnswerPair]], count: int) -> list[AnswerPair]:
    """Returns ``count`` of all, one from each group in turn, so that each kind is seen early.

    >>> spread([["a", "b", "c"], [], ["x"]], 3)
    ['a', 'x', 'b']
    """
    rounds = itertools.zip_longest(*groups)
    return [pair for turn in rounds for pair in turn if pair is not None][:count]


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
