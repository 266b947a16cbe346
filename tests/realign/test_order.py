"""The order of samples: each once an epoch, whatever the number of workers; how steps become forwards; the reduction."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_ray.config import ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.objective.reduction import Denominators, denominators, reduce_losses
from trace_ray.objective.terms import PairLosses
from trace_ray.realign.layout import like_lengths, plan_step, split_step
from trace_ray.realign.order import StepPlan, epoch_order

CATEGORY = ("INVERT",) * 7 + ("PUNISH",) * 5 + ("RETAIN",) * 19
TOKENS = tuple(random.Random(0).randint(5, 200) for _ in CATEGORY)
WEIGHED = ("INVERT", "PUNISH")


def plan(batch: int, window: int = 1, shares: dict[str, float] | None = None, max_steps: int = 0) -> StepPlan:
    more = {"window": window, "shares": shares, "max_steps": max_steps}
    return StepPlan(category=CATEGORY, tokens=TOKENS, seed=1, epochs=2, batch=batch, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 4, 7, 31, 40])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_every_sample_comes_once_an_epoch(batch: int, window: int) -> None:
    made = plan(batch, window)
    for epoch in range(2):
        steps = [made.step(epoch * made.epoch_steps + i) for i in range(made.epoch_steps)]
        assert sorted(np.concatenate(steps)) == list(range(len(CATEGORY)))
        assert all(len(step) == batch for step in steps[:-1])


def test_the_order_depends_on_seed_epoch_and_step_alone() -> None:
    forwards, backwards = plan(4, 3), plan(4, 3)
    steps = range(forwards.steps)
    seen = {i: forwards.step(i).tolist() for i in steps}
    assert seen == {i: backwards.step(i).tolist() for i in reversed(steps)}
    assert seen[0] != seen[forwards.epoch_steps]


def test_categories_are_spread_evenly() -> None:
    order = epoch_order(CATEGORY, 1, 0)
    retained = [CATEGORY[i] == "RETAIN" for i in order]
    assert all(4 <= sum(retained[i : i + 10]) <= 8 for i in (0, 10, 20))


def test_sorting_by_length_keeps_the_shares_of_a_step() -> None:
    category = ("INVERT",) * 80 + ("RETAIN",) * 240
    tokens = tuple(random.Random(1).randint(5, 200) for _ in category)
    made = StepPlan(category=category, tokens=tokens, seed=0, epochs=1, batch=16, window=10)
    spread = []
    for step in range(made.steps):
        samples = made.step(step)
        assert 3 <= sum(category[i] == "INVERT" for i in samples) <= 5
        spread.append(np.ptp([tokens[i] for i in samples]))
    assert np.mean(spread) < 60  # about 180 unsorted


def test_configured_shares_are_drawn_each_step_and_a_set_starts_anew() -> None:
    made = plan(8, shares={"INVERT": 1, "PUNISH": 1, "RETAIN": 2})
    counts = [Counter(CATEGORY[i] for i in made.step(s)) for s in range(made.epoch_steps - 1)]
    assert all(c["RETAIN"] == 4 and c["INVERT"] == c["PUNISH"] == 2 for c in counts)
    punished = np.concatenate([made.step(s) for s in range(made.epoch_steps)])
    punished = punished[[CATEGORY[i] == "PUNISH" for i in punished]]
    assert sorted(punished[:5]) == sorted({*punished[:5]})
    assert len(punished) > 5


@pytest.mark.parametrize("shares", [{"INVERT": 1, "PUNISH": 1, "RETAIN": 1}, {"INVERT": 1, "PUNISH": 5, "RETAIN": 1.5}])
def test_shares_that_do_not_divide_an_epoch_leave_no_step_empty(shares: dict[str, float]) -> None:
    made = plan(1, shares=shares)
    assert [len(made.step(s)) for s in range(made.epoch_steps)] == [1] * len(CATEGORY)


def test_shares_of_sets_without_pairs_are_refused() -> None:
    made = StepPlan(category=("INVERT",), tokens=(3,), seed=0, epochs=1, batch=1, shares={"RETAIN": 1.0})
    with pytest.raises(UserError, match=r"realign\.shares.*RETAIN"):
        made.step(0)


def test_max_steps_ends_a_run() -> None:
    assert plan(4, max_steps=3).steps == 3
    assert plan(4, max_steps=1000).steps == 16


lengths = st.lists(st.lists(st.integers(2, 60), min_size=1, max_size=3), min_size=1, max_size=17)


@settings(max_examples=150, deadline=None)
@given(lengths, st.integers(1, 5), st.integers(1, 400))
def test_a_step_is_dealt_whole_and_within_its_budget(samples: list[list[int]], workers: int, budget: int) -> None:
    dealt = split_step(samples, workers, budget)
    assert all(len(step) == workers for step in dealt)
    flat = [i for step in dealt for part in step for i in part]
    assert sorted(flat) == list(range(len(samples)))
    for part in (part for step in dealt for part in step if len(part) > 1):
        assert sum(len(samples[i]) for i in part) * max(max(samples[i]) for i in part) <= budget


@settings(max_examples=150, deadline=None)
@given(lengths, st.integers(1, 5), st.integers(1, 400))
def test_flat_rows_are_dealt_by_their_tokens_and_run_as_one_group(
    samples: list[list[int]], workers: int, budget: int
) -> None:
    marks = [[i % 2 == 0] * len(indices) for i, indices in enumerate(samples)]
    steps = plan_step(samples, marks, [False] * len(samples), workers=workers, budget=budget, overhead=5, flat=True)
    assert sorted(i for step in steps for part in step.samples for i in part) == list(range(len(samples)))
    for step in steps:
        for part, groups in zip(step.samples, step.groups, strict=True):
            assert len(part) < 2 or sum(sum(samples[i]) for i in part) <= budget
            assert groups == [list(range(sum(len(samples[i]) for i in part)))]
        assert step.anchored == [any(i % 2 == 0 for part in step.samples for i in part)]


@settings(max_examples=100, deadline=None)
@given(lengths, st.integers(1, 4))
def test_all_workers_run_as_many_groups(samples: list[list[int]], workers: int) -> None:
    marks = [[i % 2 == 0] * len(indices) for i, indices in enumerate(samples)]
    for step in plan_step(samples, marks, [False] * len(samples), workers=workers, budget=200, overhead=5):
        assert {len(groups) for groups in step.groups} == {len(step.anchored)}
        for mine, groups in zip(step.samples, step.groups, strict=True):
            assert sorted(s for g in groups for s in g) == list(range(sum(len(samples[i]) for i in mine)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 20))
def test_grouping_is_the_cheapest_of_all_contiguous_ones(sizes: list[int], overhead: int) -> None:
    order = sorted(sizes, reverse=True)

    def cheapest(rest: list[int]) -> int:
        if not rest:
            return 0
        return min(rest[0] * n + overhead + cheapest(rest[n:]) for n in range(1, len(rest) + 1))

    groups = like_lengths(sizes, overhead)
    assert sum(max(sizes[i] for i in g) * len(g) + overhead for g in groups) == cheapest(order)


def losses(loss: list[float], category: list[str], weight: list[float]) -> PairLosses:
    zeros = torch.zeros(len(loss))
    return PairLosses(torch.tensor(loss), category, torch.tensor(weight), zeros, zeros)


def test_parts_of_a_step_add_up_to_the_whole() -> None:
    loss, category, weight = [1.0, 2.0, 3.0, 4.0], ["INVERT", "RETAIN", "PUNISH", "RETAIN"], [2.0, 1.0, 0.5, 1.0]
    by = Denominators(weighed=2.0, retain=2.0, alpha_kl=0.1)
    whole = reduce_losses(losses(loss, category, weight), by, WEIGHED)
    assert whole.item() == pytest.approx((2 * 1 + 0.5 * 3) / 2 + 0.1 * (2 + 4) / 2)
    halves = [losses(loss[i : i + 2], category[i : i + 2], weight[i : i + 2]) for i in (0, 2)]
    assert sum(reduce_losses(half, by, WEIGHED).item() for half in halves) == pytest.approx(whole.item())
    assert reduce_losses(losses([], [], []), by, WEIGHED).item() == 0  # of a worker that has nothing to run


def test_conflicts_of_weight_zero_count_in_the_mean() -> None:
    by = denominators({"INVERT": 5, "RETAIN": 5}, 10, 4, ObjectiveConfig())
    assert (by.weighed, by.retain) == (4.0, 2.0)


def test_a_set_drawn_more_often_weighs_no_more() -> None:
    """A step of 8 holds 2 INVERT and 6 RETAIN; the mean over each is as without shares."""
    by = denominators({"INVERT": 5, "RETAIN": 5}, 10, 8, ObjectiveConfig(), {"INVERT": 1, "RETAIN": 3})
    assert (by.weighed, by.retain) == (4.0, 6.0)  # twice 2: half of the weighed pairs have weight 0


def test_retained_pairs_are_averaged_with_the_conflicts_where_no_anchor() -> None:
    objective = ObjectiveConfig(retain="pair")
    by = denominators({"INVERT": 5, "RETAIN": 5}, 10, 4, objective)
    assert (by.weighed, by.retain) == (4.0, 0)
    whole = reduce_losses(losses([1.0, 2.0], ["INVERT", "RETAIN"], [1.0, 1.0]), by, objective.weighed)
    assert whole.item() == pytest.approx(3.0 / 4)


def test_each_category_is_shuffled_anew_each_epoch() -> None:
    """Of one category, the relative order itself, which another offset of its places would not change."""
    category = ["INVERT"] * 40
    first, second = (epoch_order(category, 0, epoch).tolist() for epoch in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(40))


def test_the_anchors_are_averaged_over_the_anchors() -> None:
    losses = PairLosses(torch.tensor([2.0, 4.0]), ["INVERT", "RETAIN"], torch.ones(2), torch.zeros(2), torch.zeros(2))
    total = reduce_losses(losses, Denominators(weighed=5.0, retain=8.0, alpha_kl=0.5), ("INVERT", "PUNISH"))
    assert total.item() == pytest.approx(2 / 5 + 0.5 * 4 / 8)
