"""LDS and BM25: against hand-worked numbers, scipy, and worlds whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from trace_ray.study.validity import Trial, bm25, lds, lds_gain, random_subsets, spearman, tail


def world(seed: int, noise: float, pairs: int = 30, subsets: int = 40) -> tuple[Trial, np.ndarray]:
    """Trainings whose output is the sum of what each pair is worth, and noise; and that worth."""
    rng = np.random.default_rng(seed)
    worth_N, kept_MN = rng.normal(size=pairs), random_subsets(pairs, subsets, 0.5, seed)
    return Trial(kept_MN, kept_MN @ worth_N + noise * rng.normal(size=subsets)), worth_N


def test_bm25_by_hand() -> None:
    """Three documents of 4, 2 and 3 words, 3 in the mean; "cat" is in two of them, "tax" in one."""
    documents = [["cat", "cat", "dog", "sun"], ["cat", "sun"], ["tax", "law", "sun"]]
    found = bm25(documents, [["cat"], ["tax", "void"]])
    cat, tax = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    saturation = [1.2 * (0.25 + 0.75 * length / 3) for length in (4, 2, 3)]
    expected = [cat * 2 * 2.2 / (2 + saturation[0]), cat * 2.2 / (1 + saturation[1]), tax * 2.2 / (1 + saturation[2])]
    assert found == pytest.approx([score / 2 for score in expected])
    assert bm25(documents, [[1, 2]]).tolist() == [0, 0, 0], "nothing in common"


def test_bm25_counts_rare_words_more_and_repetitions_less_and_less() -> None:
    common = [["a", str(i)] for i in range(50)]
    rare, often = bm25([*common, ["b", "x"]], [["a", "b"]])[[-1, 0]]
    assert rare > 10 * often
    once, twice, thrice = bm25([["a", "x", "y"], ["a", "a", "y"], ["a", "a", "a"], *common], [["a"]])[:3]
    assert 0 < thrice - twice < twice - once


@pytest.mark.parametrize("rows", [1, 3])
def test_rank_correlations_are_scipys_ties_and_all(rows: int) -> None:
    rng = np.random.default_rng(0)
    a, b = (np.asarray(rng.integers(0, 6, (rows, 25)), np.float64) for _ in "ab")
    assert spearman(a, b) == pytest.approx([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])
    assert spearman(np.ones((1, 5)), np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])).tolist() == [0]


def test_true_worth_has_an_lds_of_one_and_its_negative_of_minus_one() -> None:
    trials, scores = zip(*(world(seed, 0.0) for seed in range(3)), strict=True)
    assert lds(trials, scores) == pytest.approx((1, 1, 1))
    assert lds(trials, [-worth for worth in scores]).value == pytest.approx(-1)


def test_the_interval_holds_what_many_subsets_say_in_95_of_100_worlds() -> None:
    """Of 60 worlds 57 are expected; the truth: the same pairs, trained on 1,000 subsets."""
    inside = 0
    for seed in range(60):
        trial, worth_N = world(seed, 2.0)
        many = random_subsets(30, 1000, 0.5, seed + 1000)
        noise = 2.0 * np.random.default_rng(seed + 2000).normal(size=1000)
        truth = spearmanr(many @ worth_N, many @ worth_N + noise).statistic
        found = lds([trial], [worth_N], resamples=200)
        inside += found.low <= truth <= found.high
    assert 51 <= inside < 60


def test_a_score_beats_the_floor_where_its_gain_is_above_zero() -> None:
    trials, worth = zip(*(world(seed, 0.5) for seed in range(3)), strict=True)
    rng = np.random.default_rng(5)
    blind = [rng.normal(size=len(score)) for score in worth]
    gain = lds_gain(trials, worth, blind)
    assert gain.low > 0.3
    assert gain.value == pytest.approx(lds(trials, worth).value - lds(trials, blind).value)
    same = lds_gain(trials, blind, [2 * score for score in blind])
    assert same == pytest.approx((0, 0, 0)), "a scale is no gain, whatever the resample"


def test_subsets_hold_their_share_and_are_those_of_their_seed() -> None:
    kept = random_subsets(31, 50, 0.5, 3)
    assert (kept.sum(1) == 16).all()
    assert (kept == random_subsets(31, 50, 0.5, 3)).all()
    assert len({tuple(row) for row in kept.tolist()}) == 50
    assert kept.mean(0) == pytest.approx(0.5, abs=0.25), "no pair is left out of all"


def test_the_tail_is_what_the_highest_scores_leave() -> None:
    scores = np.array([5.0, 1.0, 4.0, 3.0, 2.0])
    assert tail(scores, 0.4).tolist() == [False, True, False, True, True]
    assert tail(scores, 0.001).sum() == 4
