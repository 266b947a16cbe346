"""Losses against numbers worked by hand, and slopes against autograd."""

from __future__ import annotations

import math

import pytest
import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.losses import dpo, ipo, npo, rdpo, reference_slopes, token_kl


def test_each_loss_equals_its_hand_worked_number() -> None:
    margin = torch.tensor([2.0])
    sigmoid = 1 / (1 + math.exp(-1.0))  # beta 0.5 x margin 2
    assert dpo(margin, 0.5).item() == pytest.approx(-math.log(sigmoid), rel=1e-6)
    assert ipo(margin, 0.5).item() == pytest.approx((2 - 1) ** 2)
    assert npo(margin, 0.5, scaled=False).item() == pytest.approx(-math.log(1 - sigmoid), rel=1e-6)
    assert npo(margin, 0.5, scaled=True).item() == pytest.approx(-math.log(1 - sigmoid) * 4, rel=1e-6)
    noisy = (0.9 * -math.log(sigmoid) - 0.1 * -math.log(1 - sigmoid)) / 0.8
    assert rdpo(margin, 0.5, 0.1).item() == pytest.approx(noisy, rel=1e-6)
    assert rdpo(margin, 0.5, 0.0).item() == pytest.approx(dpo(margin, 0.5).item())


def test_kl_equals_a_float64_sum_over_the_vocabulary() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(5, 7), torch.randn(5, 7)
    p, q = policy.double().softmax(-1), reference.double().softmax(-1)
    slow = [sum(float(q[i, v] * (q[i, v].log() - p[i, v].log())) for v in range(7)) for i in range(5)]
    assert token_kl(policy, reference).tolist() == pytest.approx(slow, rel=1e-5)
    assert token_kl(policy, policy).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (TermConfig(loss="dpo", prefer="rejected", suppress=("chosen",)), {"rejected": -0.15, "chosen": 0.15}),
        (TermConfig(loss="npo", suppress=("chosen", "rejected")), {"chosen": 0.15, "rejected": 0.15}),
        (TermConfig(loss="ipo", prefer="rejected", suppress=("chosen",)), {"rejected": -1 / 0.3, "chosen": 1 / 0.3}),
        (TermConfig(loss="kl", prefer="chosen"), {"chosen": 0.0}),
        (TermConfig(loss="sft", prefer="chosen"), {"chosen": -0.25}),
    ],
)
def test_slopes_at_the_reference_are_the_closed_forms(term: TermConfig, expected: dict[str, float]) -> None:
    length = {name: torch.tensor([4.0]) for name in ("chosen", "rejected")}
    slopes = reference_slopes(term, ObjectiveConfig(beta=0.3, tau=0.3), length)
    assert {name: value.item() for name, value in slopes.items()} == pytest.approx(expected)
