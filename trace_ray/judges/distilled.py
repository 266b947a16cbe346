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
_LENGTHS = sorted({round(1.12**step) for step in range(62)})
"""Numbers of words; a response is described by those that it reaches."""
_HASHED: dict[str, Any] = {"n_features": 1 << 18, "alternate_sign": False, "norm": None}
_UNTAUGHT = Opinion(None, "nothing learnt yet")


class Student:
    """P(violates) of the better of two linear classifiers, which read in different ways.

    ``Wording`` weighs everything a little, ``FewWords`` looks for what alone decides, such as a phrase or a length. Whichever
    ranks the verdicts better that are held back at first, every third, is taken; the first one where these cannot tell.

    Args:
        threshold: from which on the dear judge's P(violates) counts as a violation; the student's own is moved there.
    Source: scikit-learn; deterministic, so that every actor learns the same.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.reader: Wording | FewWords = Wording()

    def learn(self, requests: Sequence[str], responses: Sequence[str], violates_N: Any) -> None:
        """Learns from verdicts, both kinds among them; they count alike, however rare one is."""
        texts = list(zip(requests, responses, strict=True))
        held_N = np.arange(len(texts)) % 3 == 2
        if len({*violates_N[held_N].tolist()}) == len({*violates_N[~held_N].tolist()}) == 2:
            self.reader = _better((Wording(), FewWords()), texts, violates_N, held_N)
        self.reader.learn(texts, violates_N)

    def p_violates(self, requests: Sequence[str], responses: Sequence[str]) -> Any:
        """Returns P(violates) of N responses, (N,) in [0, 1]."""
        if not responses:
            return np.zeros(0)
        texts = list(zip(requests, responses, strict=True))
        return self.moved(1 / (1 + np.exp(-np.clip(self.reader.logits(texts), -30, 30))))

    def moved(self, p: Any) -> Any:
        """Returns probabilities with 0.5 moved, on the logit, to the threshold."""
        odds = np.clip(p, 1e-9, 1 - 1e-9) / (1 - np.clip(p, 1e-9, 1 - 1e-9)) * self.threshold / (1 - self.threshold)
        return odds / (1 + odds)


class Wording:
    """Reads the response's words and characters, its length, and its first words beside the request's: TF-IDF, ridge."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
        from sklearn.linear_model import LogisticRegression

        self.words = HashingVectorizer(analyzer=word_grams, **_HASHED)
        self.crossed = HashingVectorizer(analyzer=crossed_words, **_HASHED)
        self.characters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), **_HASHED)
        self.weigh = TfidfTransformer(sublinear_tf=True)
        self.model = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")

    def learn(self, texts: Sequence[tuple[str, str]], violates_N: Any) -> None:
        """Learns from N (request, response) and whether each violates, (N,)."""
        self.weigh.fit(self._counts(texts))
        self.model.fit(self._features(texts), violates_N)

    def logits(self, texts: Sequence[tuple[str, str]]) -> Any:
        """Returns the log-odds that each violates, (N,)."""
        return self.model.decision_function(self._features(texts))

    def _counts(self, texts: Sequence[tuple[str, str]]) -> Any:
        from scipy.sparse import hstack

        responses = [response for _, response in texts]
        seen = [self.words.transform(responses), self.characters.transform(responses), self.crossed.transform(texts)]
        return hstack(seen).tocsr()

    def _features(self, texts: Sequence[tuple[str, str]]) -> Any:
        from scipy.sparse import csr_matrix, hstack

        words_N = np.array([len(response.split()) for _, response in texts])
        lengths = np.stack([np.log1p(words_N), words_N / 100], axis=1)
        return hstack([self.weigh.transform(self._counts(texts)), csr_matrix(lengths)]).tocsr()


class FewWords:
    """Reads whether a word, a pair, an opening, a word of the request is there, and which lengths are reached: lasso."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import LogisticRegression

        self.seen = HashingVectorizer(analyzer=marks, binary=True, **_HASHED)
        self.there: Any = None
        self.model = LogisticRegression(
            l1_ratio=1.0, solver="liblinear", max_iter=300, class_weight="balanced", random_state=0
        )

    def learn(self, texts: Sequence[tuple[str, str]], violates_N: Any) -> None:
        """As ``Wording``'s."""
        found = self.seen.transform(texts)
        self.there = np.unique(found.indices)  # the solver goes through every column, those too that nothing has
        self.model.fit(found[:, self.there], violates_N)

    def logits(self, texts: Sequence[tuple[str, str]]) -> Any:
        """As ``Wording``'s."""
        return self.model.decision_function(self.seen.transform(texts)[:, self.there])


def _better(
    readers: Sequence[Wording | FewWords], texts: Sequence[tuple[str, str]], violates_N: Any, held_N: Any
) -> Wording | FewWords:
    """Returns the reader of the larger area under the ROC curve on what is held back."""
    from sklearn.metrics import roc_auc_score

    some, rest = ([both for both, held in zip(texts, held_N, strict=True) if held == kept] for kept in (False, True))
    areas = []
    for reader in readers:
        reader.learn(some, violates_N[~held_N])
        areas.append(roc_auc_score(violates_N[held_N], reader.logits(rest)))
    return readers[int(np.argmax(areas))]


def marks(both: tuple[str, str]) -> list[str]:
    """Returns what ``FewWords`` looks at.

    >>> marks(("How so?", "I decline."))
    ['i', 'decline.', 'i decline.', '^i', '^i decline.', '?how', '?so?', 'how so?', 'how>i', 'how>decline.', 'so?>i', \
'so?>decline.', '#1', '#2']
    """
    request, response = both
    words = response.lower().split()
    openings = ["^" + " ".join(words[:length]) for length in range(1, min(len(words), _CROSSED) + 1)]
    asked = [f"?{word}" for word in request.lower().split()]
    reached = [f"#{length}" for length in _LENGTHS if length <= len(words)]
    return [*word_grams(response), *openings, *asked, *crossed_words(both), *reached]


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
