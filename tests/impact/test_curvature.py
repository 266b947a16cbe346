"""Gauss-Newton products and solves against explicit matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.impact import tiny
from trace_ray.impact.curvature import conjugate_gradients, damped, gauss_newton_product
from trace_ray.model.modes import checkpoint_layers

ROWS = [{"prompt_ids": prompt, "preferred_ids": response} for prompt, response in tiny.SEQUENCES]


def flat(vector: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in vector.values()])


def explicit(model: Any) -> torch.Tensor:
    """G by the logits' Jacobian, row by row: sum over sequences of the mean over response tokens."""
    parameters = list(tiny.trainable(model).values())
    size = sum(p.numel() for p in parameters)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for prompt, response in tiny.SEQUENCES:
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        for token in logits:
            rows = [torch.autograd.grad(z, parameters, retain_graph=True, allow_unused=True) for z in token]
            jacobian = torch.stack(
                [
                    torch.cat(
                        [
                            (torch.zeros_like(p) if g is None else g).flatten()
                            for g, p in zip(r, parameters, strict=True)
                        ]
                    )
                    for r in rows
                ]
            ).double()
            p = token.detach().double().softmax(-1)
            matrix += jacobian.T @ (torch.diag(p) - p[:, None] * p) @ jacobian / len(response)
    return matrix


@pytest.mark.parametrize("at_init", [True, False], ids=["B = 0", "away"])
def test_the_solve_equals_an_explicit_inverse(at_init: bool) -> None:
    model = tiny.adapted(tiny.llama(), at_init=at_init, targets=("q_proj",))
    gold = tiny.random_direction(model)
    if at_init:
        gold = {name: value * ("lora_B" in name) for name, value in gold.items()}
    gamma = 0.2

    def product(vector: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = gauss_newton_product(model, ROWS, vector, batch_tokens=64)
        return {name: value / len(ROWS) for name, value in found.items()}

    solution = conjugate_gradients(damped(product, gamma), gold, tolerance=1e-6, iterations=400)
    assert solution.converged
    assert solution.residuals[0] == 1.0
    matrix = explicit(model) / len(ROWS)
    expected = torch.linalg.inv(matrix + gamma * torch.eye(len(matrix))) @ flat(gold)
    assert tiny.relative_error(flat(solution.vector).tolist(), expected.tolist()) <= 1e-4


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_product_is_the_hessian_of_the_retain_kl_in_every_weight(family: str) -> None:
    model = tiny.FAMILIES[family]()
    model.set_attn_implementation("eager")  # the oracle differentiates twice
    vector = tiny.random_direction(model)
    parameters = tiny.trainable(model)
    kl = torch.zeros(())
    for prompt, response in tiny.SEQUENCES:
        logp = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        kl = kl + (logp.detach().exp() * (logp.detach() - logp)).sum(-1).mean()
    first = torch.autograd.grad(kl, list(parameters.values()), create_graph=True)
    inner = torch.stack([(g * vector[n]).sum() for n, g in zip(parameters, first, strict=True)]).sum()
    expected = torch.autograd.grad(inner, list(parameters.values()))
    found = gauss_newton_product(model, ROWS, vector, batch_tokens=20)
    assert (
        tiny.relative_error(flat(found).tolist(), torch.cat([g.flatten() for g in expected]).tolist()) <= 1e-3
    )  # the oracle's own first gradient is 0 only up to rounding


def test_shards_of_the_sample_add_up_and_checkpointing_changes_nothing() -> None:
    model = tiny.qwen2()
    vector = tiny.random_direction(model)
    whole = flat(gauss_newton_product(model, ROWS, vector, batch_tokens=64))
    checkpoint_layers(model)
    parts = [flat(gauss_newton_product(model, [row], vector, batch_tokens=64)) for row in ROWS]
    assert tiny.relative_error(torch.stack(parts).sum(0).tolist(), whole.tolist()) <= 1e-4
    assert model.config._attn_implementation == "sdpa"


def test_a_solve_that_runs_out_of_products_says_so() -> None:
    scale = {"a": torch.tensor([1.0, 10.0, 100.0])}
    b = {"a": torch.ones(3)}
    short = conjugate_gradients(lambda v: {"a": v["a"] * scale["a"]}, b, tolerance=1e-6, iterations=1)
    assert (short.converged, len(short.residuals)) == (False, 2)
    enough = conjugate_gradients(lambda v: {"a": v["a"] * scale["a"]}, b, tolerance=1e-6, iterations=10)
    assert enough.converged
    assert enough.vector["a"].tolist() == pytest.approx([1.0, 0.1, 0.01])
