"""The order of samples: each once an epoch, whatever the number of workers; and the reduction over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trace_ray.realign.objective import Denominators, PairLosses, denominators, reduce_losses
from trace_ray.realign.order import PADDING, Plan, epoch_order

CATEGORY = ("INVERT",) * 7 + ("PUNISH",) * 5 + ("RETAIN",) * 19


def plan(micro: int, accumulation: int, workers: int) -> Plan:
    return Plan(category=CATEGORY, seed=1, epochs=2, micro_batch=micro, accumulation=accumulation, workers=workers)


@pytest.mark.parametrize("shape", [(4, 1, 1), (2, 2, 1), (1, 2, 2), (3, 1, 2)])
def test_every_sample_comes_once_an_epoch(shape: tuple[int, int, int]) -> None:
    made = plan(*shape)
    for epoch in range(2):
        steps = range(epoch * made.epoch_steps, (epoch + 1) * made.epoch_steps)
        seen = np.concatenate([made.micro(s, a, r) for s in steps for a in range(shape[1]) for r in range(shape[2])])
        assert sorted(seen[seen != PADDING]) == list(range(len(CATEGORY)))


def test_a_step_holds_the_same_samples_however_it_is_split() -> None:
    whole = [sorted(plan(8, 1, 1).step(s)) for s in range(8)]
    split = [sorted(plan(1, 4, 2).step(s)) for s in range(8)]
    assert whole == split


def test_categories_are_spread_evenly() -> None:
    order = epoch_order(CATEGORY, 1, 0)
    retained = [CATEGORY[i] == "RETAIN" for i in order]
    shares = [sum(retained[i : i + 10]) for i in (0, 10, 20)]
    assert all(4 <= share <= 8 for share in shares)


def test_parts_of_a_step_add_up_to_the_whole() -> None:
    loss = torch.tensor([1.0, 2.0, 3.0, 4.0])
    category = ["INVERT", "RETAIN", "PUNISH", "RETAIN"]
    weight = torch.tensor([2.0, 1.0, 0.5, 1.0])
    by = Denominators(conflicts=2.0, retain=2.0, alpha_kl=0.1)
    whole = reduce_losses(PairLosses(loss, category, weight, loss), by)
    assert whole.item() == pytest.approx((2 * 1 + 0.5 * 3) / 2 + 0.1 * (2 + 4) / 2)
    halves = [PairLosses(loss[i : i + 2], category[i : i + 2], weight[i : i + 2], loss) for i in (0, 2)]
    assert sum(reduce_losses(half, by) for half in halves).item() == pytest.approx(whole.item())  # type: ignore[union-attr]


def test_conflicts_of_weight_zero_count_in_the_mean() -> None:
    by = denominators({"INVERT": 5, "RETAIN": 5}, conflicts=10, step_samples=4, alpha_kl=0.1)
    assert (by.conflicts, by.retain) == (4.0, 2.0)
