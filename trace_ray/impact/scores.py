"""s(y) = < v, grad log pi(y|x) > for a whole batch in one forward and one backward over activations.

Each sample of the batch gets a scalar eps = 0 that scales the direction's contribution at every adapted linear. Then
d log pi(y_i) / d eps_i is s(y_i), exactly: the derivative along v, sample by sample, with no gradient of any weight.
Relatives: ghost dot-products, LoGra. B sequences, T tokens, I and O a linear's inputs and outputs, R the rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from trace_ray.log_probs import SequenceBatch, response_log_probs

Direction = Mapping[str, torch.Tensor]
"""Trainable parameter's name -> v for it. A LoRA direction holds lora_A (R, I) and lora_B (O, R) of each linear."""


def lora_linears(model: Any) -> dict[str, Any]:
    """Returns {module name: LoRA linear} of a PEFT model."""
    from peft.tuners.lora import Linear

    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


def score_batch(model: Any, batch: SequenceBatch, direction: Direction) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (log pi(y|x), s(y)), both shape (B,), float32, from one forward and one backward.

    Args:
        model: a PEFT model in evaluation mode with every parameter frozen.
        direction: v, as ``gold_gradient`` makes it.
    Source: METHOD section 2; exact up to rounding (checked against per-sample autograd in tests).
    """
    eps_B = torch.zeros(batch.size, device=batch.input_ids_BT.device, requires_grad=True)
    with _contributions(model, direction, eps_B):
        logp_B = response_log_probs(model, batch)
    (s_B,) = torch.autograd.grad(logp_B.sum(), eps_B)
    return logp_B.detach().float(), s_B.float()


@contextmanager
def _contributions(model: Any, direction: Direction, eps_B: torch.Tensor) -> Iterator[None]:
    """While open, every adapted linear adds eps_i (V x)_i to its output."""
    handles = [
        module.register_forward_hook(_contribution(name, module, direction, eps_B))
        for name, module in lora_linears(model).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _contribution(name: str, module: Any, direction: Direction, eps_B: torch.Tensor) -> Any:
    adapter = module.active_adapters[0]
    scale = module.scaling[adapter]
    a_RI, b_OR = module.lora_A[adapter].weight, module.lora_B[adapter].weight
    da_RI = direction[f"{name}.lora_A.{adapter}.weight"].to(a_RI)
    db_OR = direction[f"{name}.lora_B.{adapter}.weight"].to(b_OR)
    away_from_init = bool(b_OR.any())

    def add(_module: Any, args: tuple[Any, ...], output_BTO: torch.Tensor) -> torch.Tensor:
        x_BTI = args[0].to(a_RI.dtype)
        along_BTO = (x_BTI @ a_RI.T) @ db_OR.T
        if away_from_init:
            along_BTO = along_BTO + (x_BTI @ da_RI.T) @ b_OR.T
        added_BTO: torch.Tensor = eps_B.view(-1, 1, 1) * scale * along_BTO
        return output_BTO + added_BTO.to(output_BTO.dtype)

    return add
