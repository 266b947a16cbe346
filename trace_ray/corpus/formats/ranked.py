"""Several answers with scores or ranks -> pairs: UltraFeedback, Nectar, Stack Exchange, distilabel's generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.formats.base import (
    Format,
    RawPair,
    RejectedRowError,
    Row,
    needed,
    no_dialogue,
    no_preference,
    shown,
)
from trace_ray.corpus.formats.compared import asked
from trace_ray.corpus.formats.dialogues import join
from trace_ray.corpus.formats.labels import number
from trace_ray.pairs import PAIRS_PER_ROW, RejectReason

Scored = tuple[Any, float]

_LISTS = (
    ("generations", "ratings", 1),
    ("generations", "rating", 1),
    ("generations", "scores", 1),
    ("responses", "scores", 1),
    ("responses", "ratings", 1),
    ("responses", "ranks", -1),
    ("all_generated_responses", "all_rm_scores", 1),
    ("candidates_completions", "ranks", -1),
)
"""Lists of answers and of their scores side by side; -1: a rank, of which 1 is the best."""


def pairs_of(prompt: Any, answers: Sequence[Scored], config: CorpusConfig) -> list[RawPair]:
    """Returns the pairs of a ranked set as ``corpus.pairs`` has them; equal scores make none.

    Raises: RejectedRowError where fewer than two answers have a score, or all pairs fall short of ``corpus.min_margin``.
    """
    if len(answers) < 2:
        raise no_preference(f"{len(answers)} answers with a score: a pair needs two")
    ordered = sorted(answers, key=lambda answer: -answer[1])
    ways = {"best_worst": [(ordered[0], ordered[-1])], "adjacent": pairwise(ordered), "all": combinations(ordered, 2)}
    kept = [
        (good, bad)
        for good, bad in ways[config.pairs]
        if good[1] - bad[1] > 0 and good[1] - bad[1] >= config.min_margin
    ]
    if not kept:
        spread = ordered[0][1] - ordered[-1][1]
        raise no_preference(f"scores from {ordered[-1][1]:g} to {ordered[0][1]:g}, {_short_of(spread, config)}")
    if len(kept) > PAIRS_PER_ROW:
        said = (
            f"{len(answers)} answers make {len(kept)} pairs, {PAIRS_PER_ROW} at most: corpus.pairs=adjacent makes fewer"
        )
        raise RejectedRowError(RejectReason.TOO_LONG, said)
    return [join(prompt, good[0], bad[0]) for good, bad in kept]


def _short_of(spread: float, config: CorpusConfig) -> str:
    if spread <= 0:
        return "all the same"
    return f"no margin of corpus.min_margin = {config.min_margin:g}"


def _from_entries(row: Row, column: str, text: str, scores: Sequence[str], sign: int) -> list[Scored]:
    """Returns answer and score of each entry of a list of mappings; one without a score cannot be placed and is left out."""
    entries = needed(row, column)
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, Mapping) for entry in entries):
        raise no_dialogue(f"{column} is no list of answers: {shown(entries)}")
    found = [
        (entry.get(text), next((s for s in (number(entry.get(n)) for n in scores) if s is not None), None))
        for entry in entries
    ]
    return [(answer, sign * score) for answer, score in found if answer is not None and score is not None]


def read_ultrafeedback_raw(row: Row, config: CorpusConfig) -> list[RawPair]:
    """UltraFeedback as it was collected: completions with ``overall_score``, else ``fine-grained_score``.

    The ``custom_system_prompt`` of a completion differs within a set and steered the model that was sampled: no prompt of
    both, it is left out, as in the binarized releases.
    """
    answers = _from_entries(row, "completions", "response", ("overall_score", "fine-grained_score"), 1)
    return pairs_of(asked(row), answers, config)


def read_nectar(row: Row, config: CorpusConfig) -> list[RawPair]:
    """Nectar: seven answers with ranks, 1 the best."""
    return pairs_of(asked(row), _from_entries(row, "answers", "answer", ("rank",), -1), config)


def read_stack_exchange(row: Row, config: CorpusConfig) -> list[RawPair]:
    """Stack Exchange preferences: a question and its answers with ``pm_score``."""
    return pairs_of(asked(row), _from_entries(row, "answers", "text", ("pm_score",), 1), config)


def read_rated_lists(row: Row, config: CorpusConfig) -> list[RawPair]:
    """A list of answers and a list of their scores, as distilabel and reward models write them."""
    for texts, scores, sign in _LISTS:
        answers, given = row.get(texts), row.get(scores)
        if answers is None or given is None:
            continue
        if not isinstance(answers, (list, tuple)) or not isinstance(given, (list, tuple)) or len(answers) != len(given):
            raise no_preference(f"{texts} and {scores} are no two lists of one length")
        scored = [(answer, number(score)) for answer, score in zip(answers, given, strict=True)]
        placed = [(answer, sign * score) for answer, score in scored if answer is not None and score is not None]
        return pairs_of(asked(row), placed, config)
    raise no_preference("no list of answers with a list of scores")


FORMATS = (
    Format("ultrafeedback_raw", ("instruction", "completions"), read_ultrafeedback_raw),
    Format("nectar", ("prompt", "answers"), read_nectar),
    Format("stack_exchange", ("question", "answers"), read_stack_exchange),
    Format(
        "rated_lists",
        (
            "generations|responses|all_generated_responses|candidates_completions",
            "ratings|rating|scores|ranks|all_rm_scores",
        ),
        read_rated_lists,
    ),
)
