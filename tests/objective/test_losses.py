"""Losses against numbers worked by hand, and their gradients against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.objective.losses import Response, dpo, ipo, npo, rdpo, token_kl, top_k_kl
from trace_ray.objective.terms import term_loss


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


def finite_difference(
    loss: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor, step: float = 1e-5
) -> torch.Tensor:
    """Central differences of the summed loss, element by element, in float64."""
    slopes = torch.zeros_like(at)
    for i in range(at.numel()):
        up, down = at.clone(), at.clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        slopes.view(-1)[i] = (loss(up).sum() - loss(down).sum()) / (2 * step)
    return slopes


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: dpo(x, 0.3),
        lambda x: ipo(x, 0.7),
        lambda x: rdpo(x, 0.3, 0.2),
        lambda x: npo(x, 0.3, scaled=False),
        lambda x: npo(x, 0.3, scaled=True),
    ],
)
def test_gradients_equal_finite_differences(loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    at = torch.tensor([-30.0, -2.0, 0.0, 0.5, 30.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(at).sum(), at)
    torch.testing.assert_close(gradient, finite_difference(loss, at.detach()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["full", "top_k"])
def test_kl_gradients_equal_finite_differences(kind: str) -> None:
    torch.manual_seed(0)
    reference = torch.randn(3, 9, dtype=torch.float64)
    log_probs, ids = reference.log_softmax(-1).topk(4)

    def loss(policy: torch.Tensor) -> torch.Tensor:
        return token_kl(policy, reference) if kind == "full" else top_k_kl(policy, ids, log_probs)

    policy = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(policy).sum(), policy)
    torch.testing.assert_close(gradient, finite_difference(loss, policy.detach()), rtol=1e-5, atol=1e-8)


def test_losses_of_extreme_margins_are_finite() -> None:
    far = torch.tensor([-1e4, 1e4])
    for loss in (dpo(far, 0.3), rdpo(far, 0.3, 0.1), npo(far, 0.3, scaled=True)):
        assert torch.isfinite(loss).all()


NONE = torch.tensor([math.nan])


def response(ratio: float, tokens: float, logp: float = math.nan) -> Response:
    """One response by its log-ratio, tokens and log-prob."""
    tokens_B, logp_B, ratio_B = (torch.tensor([value]) for value in (tokens, logp, ratio))
    return Response(tokens_B=tokens_B, logp_B=logp_B, log_ratio_B=ratio_B, token_mean_B=NONE)


RESPONSES = {"chosen": response(3.0, 4.0), "rejected": response(-2.0, 8.0)}


@pytest.mark.parametrize(("length_norm", "margin"), [(False, 3.0 + 2.0), (True, 3.0 / 4 + 2.0 / 8)])
def test_a_margin_is_of_sums_or_of_token_means_as_configured(length_norm: bool, margin: float) -> None:
    objective = ObjectiveConfig(beta=0.5, tau=0.4, label_noise=0.1, length_norm=length_norm)
    terms = {name: TermConfig(loss=name, prefer="chosen", suppress=("rejected",)) for name in ("dpo", "rdpo")}
    losses = {name: term_loss(term, objective, RESPONSES).item() for name, term in terms.items()}
    straight, flipped = math.log1p(math.exp(-0.5 * margin)), math.log1p(math.exp(0.5 * margin))
    assert losses["dpo"] == pytest.approx(straight, rel=1e-5)
    assert losses["rdpo"] == pytest.approx((0.9 * straight - 0.1 * flipped) / 0.8, rel=1e-5)


@pytest.mark.parametrize(("scaled", "factor"), [(False, 1.0), (True, 2 / 0.5)])
def test_npo_on_both_responses_is_their_sum_and_its_factor_a_switch(scaled: bool, factor: float) -> None:
    term = TermConfig(loss="npo", suppress=("chosen", "rejected"))
    objective = ObjectiveConfig(beta=0.5, npo_scale=scaled)
    expected = factor * (math.log1p(math.exp(1.5)) + math.log1p(math.exp(-1.0)))
    assert term_loss(term, objective, RESPONSES).item() == pytest.approx(expected, rel=1e-5)


def test_npo_of_token_means_is_of_log_ratios_by_length() -> None:
    term = TermConfig(loss="npo", suppress=("chosen", "rejected"))
    expected = math.log1p(math.exp(0.5 * 3 / 4)) + math.log1p(math.exp(-0.5 * 2 / 8))
    loss = term_loss(term, ObjectiveConfig(beta=0.5, length_norm=True), RESPONSES).item()
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length_norm", [False, True])
def test_ipo_is_of_token_means_and_ipo_sum_of_sums_whatever_the_others_are(length_norm: bool) -> None:
    objective = ObjectiveConfig(tau=0.4, length_norm=length_norm)
    margins = {"ipo": 3.0 / 4 + 2.0 / 8, "ipo_sum": 3.0 + 2.0}
    for name, margin in margins.items():
        term = TermConfig(loss=name, prefer="chosen", suppress=("rejected",))
        loss = term_loss(term, objective, RESPONSES).item()
        assert loss == pytest.approx((margin - 1 / 0.8) ** 2, rel=1e-5)
