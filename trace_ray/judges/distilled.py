"""A first judge made from the dear one: a linear classifier on n-grams, learnt from its first verdicts. It costs no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from trace_ray.config import JudgeConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.judges.opinion import Clauses, Opinion

_CROSSED = 8
"""First words of request and response that are looked at together."""
_UNTAUGHT = Opinion(None, "nothing learnt yet")


class Student:
    """P(violates) from hashed n-grams of the response's words and characters, its length, and its first words beside the
    request's.

    Args:
        threshold: from which on the dear judge's P(violates) counts as a violation; the student's own is moved there.
    Source: TF-IDF and logistic regression of scikit-learn; deterministic, so that every actor learns the same.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
        from sklearn.linear_model import LogisticRegression

        hashed: dict[str, Any] = {"n_features": 1 << 18, "alternate_sign": False, "norm": None}
        self.words = HashingVectorizer(analyzer=word_grams, **hashed)
        self.crossed = HashingVectorizer(analyzer=crossed_words, **hashed)
        self.characters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), **hashed)
        self.weigh = TfidfTransformer(sublinear_tf=True)
        self.model = LogisticRegression(C=10.0, max_iter=1000)
        self.threshold = threshold

    def learn(self, requests: Sequence[str], responses: Sequence[str], violates_N: Any) -> None:
        """Learns from verdicts, both kinds among them."""
        self.model.fit(
            self._features(self.weigh.fit_transform(self._counts(requests, responses)), responses), violates_N
        )

    def p_violates(self, requests: Sequence[str], responses: Sequence[str]) -> Any:
        """Returns P(violates) of N responses, (N,) in [0, 1]."""
        if not responses:
            return np.zeros(0)
        seen = self._features(self.weigh.transform(self._counts(requests, responses)), responses)
        return self.moved(self.model.predict_proba(seen)[:, 1])

    def moved(self, p: Any) -> Any:
        """Returns probabilities with 0.5 moved, on the logit, to the threshold."""
        odds = np.clip(p, 1e-9, 1 - 1e-9) / (1 - np.clip(p, 1e-9, 1 - 1e-9)) * self.threshold / (1 - self.threshold)
        return odds / (1 + odds)

    def _counts(self, requests: Sequence[str], responses: Sequence[str]) -> Any:
        from scipy.sparse import hstack

        both = list(zip(requests, responses, strict=True))
        seen = [self.words.transform(responses), self.characters.transform(responses), self.crossed.transform(both)]
        return hstack(seen).tocsr()

    def _features(self, weighed: Any, responses: Sequence[str]) -> Any:
        from scipy.sparse import csr_matrix, hstack

        lengths = np.array([[np.log1p(len(text.split())), len(text.split()) / 100] for text in responses])
        return hstack([weighed, csr_matrix(lengths)]).tocsr()


def word_grams(text: str) -> list[str]:
    """Returns the words and the pairs of neighbours, lower-cased.

    >>> word_grams("Sure, I can.")
    ['sure,', 'i', 'can.', 'sure, i', 'i can.']
    """
    words = text.lower().split()
    return words + [f"{a} {b}" for a, b in pairwise(words)]


def crossed_words(both: tuple[str, str]) -> list[str]:
    """Returns each of the request's first words with each of the response's: what is right to answer depends on the question.

    >>> crossed_words(("How so?", "I decline."))
    ['how so?', 'how>i', 'how>decline.', 'so?>i', 'so?>decline.']
    """
    request, response = (text.lower().split()[:_CROSSED] for text in both)
    return [*(f"{a} {b}" for a, b in pairwise(request)), *(f"{a}>{b}" for a in request for b in response)]


class DistilledJudge:
    """Says nothing until it is taught; a cascade asks the dear judge instead. It names no clauses."""

    def __init__(self, _policy: PolicyConfig, _config: JudgeConfig) -> None:
        self.student: Student | None = None
        self.judged = 0

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        if self.student is None:
            return [_UNTAUGHT] * len(responses)
        self.judged += len(responses)
        return [Opinion(float(p)) for p in self.student.p_violates(requests, responses)]

    def clauses(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Clauses | None]:
        return [()] * len(responses)

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": self.judged}
