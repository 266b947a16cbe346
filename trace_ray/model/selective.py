"""Layers that keep for the backward what is dear to compute and cheap to hold, and make the rest of it again.

Kept are what attention gives, and products whose numbers each cost many multiplications: of the linears of a layer those
whose output is not much wider than their input (queries, keys, values, and the projections back to the model's width). Made
again are norms, activations, rotations, an adapter's low-rank parts and the wide first half of an MLP.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

WIDER = 2
"""Times its input's width that a kept product's output may be: above it lies an MLP's first half, below it heads that
are wider than the model."""

_ATTENTION = (
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "torch_attn::_varlen_attn",
)
_PRODUCTS = {"aten::mm": 0, "aten::addmm": 1}
"""And at which argument their left factor stands. What is done in place cannot be kept: torch returns what it was done to."""


def keeps(_context: Any, operator: Any, *arguments: Any, **_named: Any) -> CheckpointPolicy:
    """Returns whether a layer keeps what an operator (torch.ops) gives, as ``create_selective_checkpoint_contexts`` asks."""
    name = operator.name()
    kept = name in _ATTENTION
    if (at := _PRODUCTS.get(name)) is not None:
        left, right = arguments[at : at + 2]
        kept = right.shape[-1] <= WIDER * left.shape[-1]
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


kept_and_made_again = partial(create_selective_checkpoint_contexts, keeps)
"""What ``torch.utils.checkpoint.checkpoint`` takes as its ``context_fn``."""
