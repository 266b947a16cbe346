"""How far a score tells what training does: the field's yardstick (LDS), and the floor that a score must beat (BM25). Pure.

N training pairs, M subsets of them that were trained on, R resamples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Words = Sequence[Hashable]

K1, B = 1.2, 0.75
"""BM25's usual constants: how soon a word's repetitions stop counting, and how much a document's length does."""
_TAIL = 0.025


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Trial:
    """What one model was trained on, again and again, and how that came out.

    Args:
        kept_MN: which pairs each training had; output_M: what it is judged by, the higher the better (less of the gold loss).
    """

    kept_MN: Bools
    output_M: Floats


def bm25(documents: Sequence[Words], queries: Sequence[Words]) -> Floats:
    """Returns for each document its mean BM25 score over the queries, shape (documents,).

    Source: Robertson and Zaragoza 2009, eq. 3.15; the weight of a word is ln(1 + (N - n + 1/2) / (n + 1/2)), which is
    never negative, of n documents out of N that have it.

    Args:
        documents, queries: words or tokens; a word that a query repeats counts each time.
    """
    counts = [Counter(document) for document in documents]
    mean = sum(map(len, documents)) / max(1, len(documents)) or 1.0
    having = Counter(word for document in counts for word in document)
    asked = Counter(word for query in queries for word in query)
    weight = {
        word: times * math.log(1 + (len(documents) - having[word] + 0.5) / (having[word] + 0.5))
        for word, times in asked.items()
    }
    scores = np.zeros(len(documents))
    for i, document in enumerate(counts):
        saturation = K1 * (1 - B + B * len(documents[i]) / mean)
        scores[i] = sum(weight[w] * n * (K1 + 1) / (n + saturation) for w, n in document.items() if w in weight)
    return scores / max(1, len(queries))


def random_subsets(pairs: int, subsets: int, share: float, seed: int) -> Bools:
    """Returns which pairs each subset holds, shape (M, N): the rounded ``share`` of them, drawn without replacement."""
    rng = np.random.default_rng(seed)
    kept_MN = np.zeros((subsets, pairs), dtype=bool)
    for row_N in kept_MN:
        row_N[rng.choice(pairs, round(share * pairs), replace=False)] = True
    return kept_MN


def lds(trials: Sequence[Trial], scores: Sequence[Floats], resamples: int = 2000, seed: int = 0) -> Estimate:
    """Returns the linear datamodeling score: how the summed scores of a subset rank what training on it comes to.

    The mean over trials of the Spearman correlation between the sum of a subset's scores and the output; the interval is of a
    bootstrap over the subsets of each trial.

    Source: Park et al. 2023 (TRAK, arXiv 2303.14186), definition 2.4.

    Args:
        scores: of each trial's pairs, shape (N,).
    """
    value, draws_R = _correlations(trials, scores, resamples, seed)
    return _estimate(value, draws_R)


def lds_gain(
    trials: Sequence[Trial], scores: Sequence[Floats], floor: Sequence[Floats], resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Returns by how much the LDS of scores is above that of others, ``floor``, on the same trials and resamples."""
    value, draws_R = _correlations(trials, scores, resamples, seed)
    least, least_R = _correlations(trials, floor, resamples, seed)
    return _estimate(value - least, draws_R - least_R)


def tail(score_N: Floats, share: float) -> Bools:
    """Returns which pairs are left once the ``share`` of them with the highest scores is gone, at least one, shape (N,).

    >>> tail(np.array([0.3, 0.9, 0.1, 0.2]), 0.25).tolist()
    [True, False, True, True]
    """
    left_N = np.ones(len(score_N), dtype=bool)
    left_N[np.argsort(-score_N, kind="stable")[: max(1, round(share * len(score_N)))]] = False
    return left_N


def _correlations(trials: Sequence[Trial], scores: Sequence[Floats], resamples: int, seed: int) -> tuple[float, Floats]:
    """The mean Spearman correlation over the trials, and that of each resample, shape (R,)."""
    rng, values, draws = np.random.default_rng(seed), list[float](), list[Floats]()
    for trial, score_N in zip(trials, scores, strict=True):
        predicted_M, subsets = trial.kept_MN @ score_N, len(trial.output_M)
        at_RM = rng.integers(0, subsets, (resamples, subsets))
        values.append(float(spearman(predicted_M[None], trial.output_M[None])[0]))
        draws.append(spearman(predicted_M[at_RM], trial.output_M[at_RM]))
    return float(np.mean(values)), np.asarray(np.mean(draws, axis=0), np.float64)


def spearman(a_RM: Floats, b_RM: Floats) -> Floats:
    """Returns the rank correlation of each row, shape (R,), equal values at their mean rank; 0 where a row is constant."""
    from scipy.stats import rankdata

    a, b = (ranks - ranks.mean(-1, keepdims=True) for ranks in (rankdata(x, axis=-1) for x in (a_RM, b_RM)))
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    found: Floats = np.divide((a * b).sum(-1), size, out=np.zeros(len(size)), where=size > 0)
    return found


def _estimate(value: float, draws_R: Floats) -> Estimate:
    low, high = np.quantile(draws_R, [_TAIL, 1 - _TAIL])
    return Estimate(value, float(low), float(high))
