"""What in the order of samples is drawn anew: the steps of a window, the offsets of shares, each epoch's windows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from trace_ray.realign.order import StepPlan, by_length, share_order

SAMPLES, BATCH = 43, 4
ONE_KIND = np.array(["INVERT"] * SAMPLES, dtype=object)
TOKENS = np.random.default_rng(0).permutation(SAMPLES) + 5


def slices() -> list[list[int]]:
    """The samples from short to long, cut into steps."""
    ranked = np.argsort(TOKENS).tolist()
    return [sorted(ranked[i : i + BATCH]) for i in range(0, SAMPLES, BATCH)]


def steps_of(order: np.ndarray) -> list[list[int]]:
    return [sorted(order[i : i + BATCH].tolist()) for i in range(0, len(order), BATCH)]


def test_the_steps_of_a_window_come_in_random_order_and_its_short_step_last() -> None:
    """A run must not see all short samples first: over many draws, the shortest step comes first about every tenth time."""
    wanted, places = slices(), Counter[int]()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = steps_of(by_length(np.arange(SAMPLES), ONE_KIND, TOKENS, BATCH, rng))
        assert sorted(found) == sorted(wanted)
        assert found[-1] == wanted[-1]
        places[found.index(wanted[0])] += 1
    assert set(places) == set(range(10))
    assert max(places.values()) < 40  # 20 expected


def test_each_epoch_shuffles_the_steps_of_its_windows_anew() -> None:
    """One category, one window, no two lengths alike: epochs have the same steps and differ in their order alone."""
    made = StepPlan(category=tuple(ONE_KIND), tokens=tuple(TOKENS.tolist()), seed=3, epochs=4, batch=BATCH, window=100)
    epochs = [steps_of(made.epoch(epoch)) for epoch in range(4)]
    assert all(sorted(steps) == sorted(slices()) for steps in epochs)
    assert len({str(steps) for steps in epochs}) == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_no_category_of_equal_shares_always_comes_first(seed: int) -> None:
    category = ["INVERT"] * 10 + ["RETAIN"] * 10
    shares = {"INVERT": 1.0, "RETAIN": 1.0}
    first = Counter(category[share_order(category, shares, 20, seed, epoch)[0]] for epoch in range(100))
    assert min(first["INVERT"], first["RETAIN"]) > 25  # 50 expected
