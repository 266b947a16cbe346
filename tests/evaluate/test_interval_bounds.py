"""Intervals whose ends are known: of nothing that changed, and of win rates over unevenly rated items."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trace_ray.evaluate.intervals import change_interval
from trace_ray.evaluate.rating.results import Rating, win_rates


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_where_nothing_changed_the_bound_is_what_ten_unchanged_answers_say(answer: float) -> None:
    bound = 1 - 0.025**0.1
    assert change_interval([answer] * 10, [answer] * 10, 100, 0) == pytest.approx((-bound, bound))


def test_a_win_rates_interval_counts_ratings_not_items() -> None:
    """One item has nine ratings, the others one: scipy resamples items, the statistic is the share of ratings won."""
    wins_N, ratings_N = np.array([9, 0, 1, 0, 0, 1, 0, 0]), np.array([9, 1, 1, 1, 1, 1, 1, 1])
    ratings = [
        Rating(f"i{item}", f"rater {rater}", frozenset({"trace" if rater < won else "u2a"}))
        for item, (won, rated) in enumerate(zip(wins_N, ratings_N, strict=True))
        for rater in range(rated)
    ]
    (row,) = win_rates(ratings, ["trace", "u2a"], 20000, 1)
    theirs = stats.bootstrap(
        (wins_N, ratings_N),
        lambda wins, rated, axis: 100 * wins.sum(axis) / rated.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert row["win_rate"] == pytest.approx(100 * 11 / 16)
    assert row["interval"] == pytest.approx(tuple(theirs), abs=1.5)
    of_items = 100 * wins_N / ratings_N
    assert theirs.high > of_items.mean() + 2.5 * of_items.std() / len(of_items) ** 0.5  # means of items end far below
