"""How many tokens a card takes at once, and what a stage takes of a card. Pure; what was measured stands here alone.

Bytes; a token's are what its forward keeps for the backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from trace_ray.config.fields import SELECTIVE

SHARE = 0.85
"""Of a card that is filled: the allocator's gaps, and rows longer than those that were tried, take more."""
STEP, MOST = 256, 65_536
WORKSPACE = 2 * 2**30
"""CUDA's context, cuBLAS, and the logits of a chunk with their softmax and gradient."""
ADAPTER = 2**29
"""An adapter with gradients, float32 copy and moments: 0.2 to 0.3 GB at rank 32 of an 8B model."""
KEPT_MIB = {("scoring", False): 4.3, ("training", False): 6.3, ("scoring", True): 3.1, ("training", True): 4.3}
"""MiB a token of ``REFERENCE`` in bfloat16 without checkpointing, by what is done and whether the model runs lean.

Lean, that is flat rows with fused steps, measured on an H100 (tests/gpu/README.md); else counted, for padded rows and
kernels of torch. Each without the other was not measured, and goes by the larger figure.
"""
_KEPT_OUTPUTS = 6
"""Queries, keys, values, attention, and the projections back from attention and MLP: keys and values are at most so wide."""
LIVE = 2 * 10**9
"""Parameters gathered ahead by ZeRO-3, in bytes: DeepSpeed's stage3_max_live_parameters in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model decides its memory.

    Args:
        parameters, layers; width: of the hidden state; inner: of the MLP, all experts of a token together; size: bytes of a
            weight.
    """

    parameters: float
    layers: int
    width: int
    inner: int
    size: int = 2

    @property
    def weights(self) -> float:
        return self.parameters * self.size

    @property
    def layer_numbers(self) -> int:
        """Numbers that a layer makes of one token, about."""
        return 11 * self.width + 4 * self.inner


REFERENCE = Shape(parameters=8.03e9, layers=32, width=4096, inner=14336)
"""Llama-3.1-8B."""


class Trained(Protocol):
    """Of ``RealignConfig``."""

    @property
    def tune(self) -> str: ...
    @property
    def kl_reference(self) -> str: ...
    @property
    def offload(self) -> str: ...
    @property
    def workers(self) -> int: ...


def fitting_tokens(card: float, fixed: float, a_token: float, longest: int = 0) -> int:
    """Returns the tokens that a card takes at once: a multiple of STEP, at most MOST, at least the longest row.

    Args:
        card: bytes of the card; fixed: held whatever is run; a_token: held for each token.
        longest: tokens of the longest row, which is run whatever it takes.

    >>> fitting_tokens(80e9, 16e9, 4e6), fitting_tokens(80e9, 16e9, 1e3), fitting_tokens(20e9, 16e9, 4e6, 900)
    (12800, 65536, 900)
    """
    fits = math.floor(max(0.0, SHARE * card - fixed) / max(a_token, 1.0) / STEP) * STEP
    return max(1, longest, min(MOST, fits))


def line_through(first: tuple[int, float], second: tuple[int, float]) -> tuple[float, float]:
    """Returns (fixed part, part a token) of two trials, each its tokens and the bytes held at most.

    >>> line_through((1024, 5000.0), (2048, 7048.0))
    (2952.0, 2.0)
    """
    a_token = (second[1] - first[1]) / (second[0] - first[0])
    return first[1] - a_token * first[0], a_token


def token_bytes(shape: Shape, what: str, *, checkpointed: bool | str, lean: bool) -> float:
    """Returns what one token holds in ``scoring`` or ``training``: what is known of REFERENCE, by the layers' sizes.

    Where layers are checkpointed each keeps its input, and one at a time holds what it would. Where they are so selectively
    each also keeps six outputs of about the model's width (``model.selective``): counted, not measured on a card.

    Args:
        lean: whether rows are flat and steps fused, see KEPT_MIB.
    """
    kept = KEPT_MIB[what, lean] * 2**20 / REFERENCE.layers
    a_layer = kept * shape.layer_numbers / REFERENCE.layer_numbers * shape.size / REFERENCE.size
    if not checkpointed:
        return shape.layers * a_layer
    kept_widths = 1 + (_KEPT_OUTPUTS if checkpointed == SELECTIVE else 0)
    return shape.layers * kept_widths * shape.width * shape.size + a_layer


def scoring_bytes(shape: Shape, *, full: bool, curvature: str = "identity") -> float:
    """Returns what a scoring actor holds at most whatever it runs: that is while it makes gradients, not while it scores.

    Of every weight: a batch's gradient and the float32 sum of all batches'; for ``gauss_newton`` also what the product is
    taken of, in the weights' dtype. Scoring holds weights and v, in their dtype.

    Args:
        full: gradients are of every weight, else of an adapter; curvature: ``impact.curvature``.
    """
    gradients = shape.weights + 4 * shape.parameters + (shape.weights if curvature == "gauss_newton" else 0)
    return shape.weights + (gradients if full else ADAPTER) + WORKSPACE


def training_bytes(shape: Shape, realign: Trained, stage: int) -> float:
    """Returns what a training worker holds whatever it runs.

    Args:
        stage: of ZeRO, as it is run: 1 shares float32 copy and moments among the workers, 2 gradients too, 3 weights too.
    """
    parts = [realign.workers if stage >= shared else 1 for shared in range(4)]
    copies = 2 if realign.kl_reference == "frozen_copy" else 1
    weights = 0.0 if realign.offload == "all" else copies * shape.weights / parts[3]
    live = LIVE if stage == 3 else 0
    if realign.tune == "lora":
        return weights + live + ADAPTER + WORKSPACE
    moments = 0.0 if realign.offload != "none" else 12 * shape.parameters / parts[1]
    return weights + live + 4 * shape.parameters / parts[2] + moments + WORKSPACE


def shape_of(config: Any, parameters: float, dtype: str) -> Shape:
    """Returns the shape of a model.

    Args:
        config: of transformers, of the whole model or its text part.
        dtype: of its weights: float32 or bfloat16.
    """
    text = config.get_text_config()
    width, experts = int(text.hidden_size), int(getattr(text, "num_experts_per_tok", None) or 1)
    inner = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None) or 4 * width
    return Shape(
        parameters=parameters,
        layers=int(text.num_hidden_layers),
        width=width,
        inner=experts * int(inner),
        size=4 if dtype == "float32" else 2,
    )
