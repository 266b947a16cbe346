"""Logits of a bfloat16 head in float32: exact products, nothing rounded, gradients as autograd's."""

from __future__ import annotations

import pytest
import torch

from trace_ray.model import wide
from trace_ray.model.vocabulary import Head, chunked_log_probs, head_logits
from trace_ray.model.wide import wide_linear
from trace_ray.objective.losses import token_kl

TOKENS, WIDTH, VOCABULARY = 40, 64, 211


def narrow(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weight and bias in bfloat16 that give logits of 20 and more."""
    torch.manual_seed(seed)
    made = torch.randn(TOKENS, WIDTH) * 2, torch.randn(VOCABULARY, WIDTH), torch.randn(VOCABULARY)
    return tuple(tensor.bfloat16().requires_grad_() for tensor in made)  # type: ignore[return-value]


@pytest.mark.parametrize("widened", [1, 3 * WIDTH, wide.WIDENED_AT_ONCE])
def test_products_are_those_of_float64(widened: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "WIDENED_AT_ONCE", widened)
    hidden, weight, bias = narrow()
    exact = torch.nn.functional.linear(hidden.double(), weight.double(), bias.double())
    found = wide_linear(hidden, weight, bias)
    assert found.dtype == torch.float32
    assert (found.double() - exact).abs().max() < 1e-4
    rounded = torch.nn.functional.linear(hidden, weight, bias)
    assert (rounded.double() - exact).abs().max() > 0.05  # what is avoided


def test_gradients_are_those_of_autograd() -> None:
    wanted = narrow()
    upstream = torch.randn(TOKENS, VOCABULARY)
    found = torch.autograd.grad((wide_linear(*wanted) * upstream).sum(), wanted)
    expected = torch.autograd.grad((torch.nn.functional.linear(*(t.float() for t in wanted)) * upstream).sum(), wanted)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b.float()).abs().max() < 0.02 * b.float().abs().max()


def test_no_token_has_no_logits_and_a_gradient_of_zero() -> None:
    hidden, weight, bias = narrow()
    wide_linear(hidden[:0], weight, bias).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert not weight.grad.any()


def test_a_small_divergence_and_a_response_are_measured_in_bfloat16() -> None:
    """A KL of 1e-5 nats and the sum of a response's log-probs: both drown in rounded logits."""
    hidden, weight, _ = narrow()
    moved = (hidden.detach().float() + 0.004 * torch.randn(TOKENS, WIDTH)).bfloat16()
    target = torch.randint(0, VOCABULARY, (TOKENS,))

    def exactly(states: torch.Tensor) -> torch.Tensor:
        return states.double() @ weight.detach().double().T

    kl = token_kl(*(head_logits(states, Head(weight.detach(), None)) for states in (moved, hidden.detach())))
    expected = token_kl(exactly(moved), exactly(hidden))
    assert kl.mean().item() == pytest.approx(expected.mean().item(), rel=0.02)
    rounded = token_kl(
        *((states @ weight).float() for weight in [weight.detach().T] for states in (moved, hidden.detach()))
    )
    assert rounded.mean().item() > 1.5 * expected.mean().item()
    logp = chunked_log_probs(hidden, Head(weight, None), target).sum()
    truth = exactly(hidden).log_softmax(-1).gather(1, target[:, None]).sum()
    assert logp.item() == pytest.approx(truth.item(), abs=1e-3)
