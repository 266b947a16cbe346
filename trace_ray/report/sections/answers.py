"""Answers of base and realigned model to the same held-out prompts, with the judge's view."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import Config
from trace_ray.look.words import Piece, word_diff
from trace_ray.pairs import MODELS
from trace_ray.report.redact import Excerpt, error_kind, excerpt
from trace_ray.report.sections.clauses import broken_in_answers
from trace_ray.report.sections.worse import answers_of_both
from trace_ray.runs.artifacts import Run


@dataclass(frozen=True)
class Answer:
    """One model's answer and what the judge says of it.

    Args:
        clauses: that it breaks, as far as rules or the judge tell.
        error_kind: why there is no verdict, in our own words; empty where there is one.
        error: all that was recorded of it.
    """

    text: Excerpt | None
    compliant: bool
    p_violates: float | None
    clauses: Sequence[str]
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
    def clauses(self) -> list[str]:
        """Returns the clauses that either answer breaks."""
        return sorted({*self.base.clauses, *self.realigned.clauses})

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


def answers_section(run: Run, config: Config) -> list[AnswerPair]:
    """Returns held-out prompts with both answers: some of each verdict, the lost ones first; [] before evaluation."""
    if not run.evaluation.done():
        return []
    both = answers_of_both(run)
    every = [answered[model] for answered in both for model in MODELS]
    broken = iter(broken_in_answers(every, config.policy, config.triage.threshold))
    pairs = [_pair(models, {model: next(broken) for model in MODELS}, config.report.redact) for models in both]
    groups = [[pair for pair in pairs if pair.verdict == verdict] for verdict in _ORDER]
    return sorted(spread(groups, config.report.examples), key=lambda pair: pair.verdict != _ORDER[0])


def spread(groups: Sequence[list[AnswerPair]], count: int) -> list[AnswerPair]:
    """Returns ``count`` of all, one from each group in turn, so that each kind is seen early.

    >>> spread([["a", "b", "c"], [], ["x"]], 3)
    ['a', 'x', 'b']
    """
    rounds = itertools.zip_longest(*groups)
    return [pair for turn in rounds for pair in turn if pair is not None][:count]


def _pair(models: Mapping[str, Mapping[str, Any]], broken: Mapping[str, Iterable[str]], redact: str) -> AnswerPair:
    base, realigned = models["base"], models["realigned"]
    return AnswerPair(
        prompt=excerpt(base["prompt"], redact),
        category=base["category"],
        source=base["source"],
        base=_answer(base, broken["base"], redact),
        realigned=_answer(realigned, broken["realigned"], redact),
    )


def _answer(row: Mapping[str, Any], broken: Iterable[str], redact: str) -> Answer:
    error = row["judge_error"]
    kind = error_kind(error) if error else ""
    text, why = excerpt(row["response"], redact), excerpt(error, redact)
    return Answer(text, row["compliant"], row["p_violates"], sorted(broken), kind, why)
