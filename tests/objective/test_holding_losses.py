"""The losses that hold, by numbers worked by hand and by finite differences; a category's terms add up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.objective.test_losses import RESPONSES, finite_difference, response
from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.objective.losses import LOSSES
from trace_ray.objective.losses.relations import cal_dpo, dpop
from trace_ray.objective.losses.suppression import saturating_log_ratio, simnpo, undial, undial_slope
from trace_ray.objective.terms import term_loss

PAIR: dict[str, Any] = {"prefer": "chosen", "suppress": ("rejected",)}


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def value(number: float) -> torch.Tensor:
    return torch.tensor([number])


def test_dpop_charges_for_a_preferred_side_below_the_reference() -> None:
    assert dpop(value(1.5), value(0.5), 0.4, 5.0).item() == pytest.approx(softplus(-0.4 * 1.0))
    assert dpop(value(-0.5), value(-2.0), 0.4, 5.0).item() == pytest.approx(softplus(-0.4 * (1.5 - 5 * 0.5)))
    assert dpop(value(-0.5), value(-2.0), 0.4, 0.0).item() == pytest.approx(softplus(-0.4 * 1.5))


def test_cal_dpo_pins_both_levels() -> None:
    expected = softplus(-(2.0 - -1.0)) + (2.0 - 1.0) ** 2 + (-1.0 + 1.0) ** 2
    assert cal_dpo(value(2.0), value(-1.0), 0.5).item() == pytest.approx(expected)


def test_simnpo_is_of_the_mean_log_prob() -> None:
    assert simnpo(value(-2.0), 2.5, 0.5).item() == pytest.approx(2 / 2.5 * softplus(2.5 * -2.0 + 0.5))


def test_a_token_far_below_the_reference_no_longer_counts() -> None:
    reference = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    policy = torch.tensor([[0.0, 10.0], [0.0, 0.5]], requires_grad=True)
    found = saturating_log_ratio(policy, reference, torch.tensor([0, 0]), 2.0)
    assert found.tolist() == pytest.approx([-2.0, -softplus(0.5) + math.log(2)])
    (gradient,) = torch.autograd.grad(found.sum(), policy)
    assert gradient[0].tolist() == [0.0, 0.0]
    assert gradient[1].abs().min() > 0.1


def test_undial_is_the_cross_entropy_to_the_lowered_token() -> None:
    reference, policy = torch.tensor([[math.log(6), math.log(2)]]), torch.tensor([[math.log(1), math.log(3)]])
    lowered = 6 * math.exp(-1.5)
    target = [lowered / (lowered + 2), 2 / (lowered + 2)]
    expected = -(target[0] * math.log(1 / 4) + target[1] * math.log(3 / 4))
    assert undial(policy, reference, torch.tensor([0]), 1.5).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: dpop(x[:5], x[5:], 0.3, 5.0),
        lambda x: cal_dpo(x[:5], x[5:], 0.4),
        lambda x: simnpo(x, 2.5, 0.3),
    ],
)
def test_gradients_equal_finite_differences(loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    values = [-9.0, -2.0, 0.3, 1.5, 4.0, 0.7, -3.0, -1.0, 2.0, -8.0]
    at = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(at).sum(), at)
    torch.testing.assert_close(gradient, finite_difference(loss, at.detach()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.token_value])
def test_gradients_of_token_values_equal_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    entry = LOSSES[name]
    parameters = ObjectiveConfig().parameters(TermConfig(loss=name))
    reference, target = torch.randn(4, 7, dtype=torch.float64), torch.tensor([0, 3, 6, 2])

    def value(policy: torch.Tensor) -> torch.Tensor:
        assert entry.token_value is not None
        return entry.token_value(policy, reference, target, parameters)

    policy = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(policy).sum(), policy)
    torch.testing.assert_close(gradient, finite_difference(value, policy.detach()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.token_value])
def test_at_the_reference_a_token_s_gradient_is_its_slope_times_that_of_its_log_prob(name: str) -> None:
    torch.manual_seed(1)
    entry = LOSSES[name]
    parameters = ObjectiveConfig().parameters(TermConfig(loss=name)) | ({"gamma": 1.2} if name == "undial" else {})
    logits = (3 * torch.randn(6, 5, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    assert entry.token_value is not None
    (found,) = torch.autograd.grad(entry.token_value(logits, logits.detach(), target, parameters).sum(), logits)
    logp_N = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
    slope = entry.token_slope(logp_N.detach(), parameters) if entry.token_slope else torch.zeros(6).double()
    (expected,) = torch.autograd.grad((slope * logp_N).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_undial_leaves_alone_what_is_not_likely() -> None:
    assert undial_slope(torch.tensor([-30.0]), 10.0).item() == pytest.approx(0.0, abs=1e-12)


def test_a_term_s_own_parameters_go_before_the_objective_s_and_its_weight_scales_it() -> None:
    objective = ObjectiveConfig(beta=0.5)
    margin = 3.0 + 2.0
    for parameters, expected in (
        ({}, softplus(-0.5 * margin)),
        ({"beta": 0.2}, softplus(-0.2 * margin)),
        ({"beta": 0.2, "weight": 3.0}, 3 * softplus(-0.2 * margin)),
        ({"length_norm": True}, softplus(-0.5 * (3 / 4 + 2 / 8))),
    ):
        term = TermConfig(loss="dpo", parameters=parameters, **PAIR)
        assert term_loss(term, objective, RESPONSES).item() == pytest.approx(expected, rel=1e-5)


def test_sft_and_simnpo_read_log_probs_alone() -> None:
    alone = {"chosen": response(math.nan, 4.0, -6.0), "rejected": response(math.nan, 8.0, -10.0)}
    sft = TermConfig(loss="sft", prefer="chosen", parameters={"weight": 0.5})
    assert term_loss(sft, ObjectiveConfig(), alone).item() == pytest.approx(0.5 * 6 / 4)
    simnpo_term = TermConfig(loss="simnpo", suppress=("chosen", "rejected"), parameters={"beta": 2.0})
    expected = softplus(2 * -6 / 4) + softplus(2 * -10 / 8)
    assert term_loss(simnpo_term, ObjectiveConfig(), alone).item() == pytest.approx(expected, rel=1e-5)
