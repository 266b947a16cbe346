"""Intervals against scipy's bootstrap and binomial test, and what they cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trace_ray.evaluate.intervals import bootstrap_interval, change_interval, equal_interval


def test_the_bootstrap_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).random(60) < 0.3
    ours = bootstrap_interval(values.astype(float), 20000, 1)
    theirs = stats.bootstrap(
        (values.astype(float),), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.017)  # one prompt of sixty


def test_an_interval_is_reproducible_and_covers_the_truth_in_about_95_percent_of_draws() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval((rng.random(100) < 0.4).astype(float), 400, 0)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 400 <= 0.985
    assert bootstrap_interval([0, 1, 1], 200, 5) == bootstrap_interval([0, 1, 1], 200, 5)


@pytest.mark.parametrize(("successes", "count"), [(12, 12), (0, 12), (1, 1)])
def test_equal_answers_get_the_exact_binomial_bound(successes: int, count: int) -> None:
    exact = stats.binomtest(successes, count).proportion_ci(0.95, method="exact")
    values = [1.0] * successes + [0.0] * (count - successes)
    assert bootstrap_interval(values, 100, 0) == pytest.approx((exact.low, exact.high))


def test_a_change_is_paired() -> None:
    before = [0.0, 1.0] * 50
    after = [1.0, 1.0] * 50
    low, high = change_interval(before, after, 2000, 0)
    unpaired = bootstrap_interval(after, 2000, 0)[0] - bootstrap_interval(before, 2000, 0)[1]
    assert low == pytest.approx(0.4, abs=0.02)
    assert high == pytest.approx(0.6, abs=0.02)
    assert unpaired != pytest.approx(low, abs=0.02)


def test_an_unchanged_sample_does_not_pretend_to_certainty() -> None:
    low, high = change_interval([1.0] * 10, [1.0] * 10, 100, 0)
    assert low < 0 < high
    assert change_interval([0.0] * 10, [1.0] * 10, 100, 0) == pytest.approx((0.025**0.1, 1.0))


def test_gains_and_losses_that_cancel_leave_a_wide_interval() -> None:
    low, high = change_interval([0.0, 1.0] * 20, [1.0, 0.0] * 20, 500, 0)
    assert low < -0.15 < 0.15 < high


def test_equal_shares_between_are_as_unsure_as_so_many_draws() -> None:
    for wins, count in ((5, 10), (1, 2), (27, 30)):
        theirs = stats.binomtest(wins, count).proportion_ci(method="wilson")
        assert equal_interval(wins / count, count) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
