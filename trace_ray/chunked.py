"""Functions of the logits, a few tokens at a time: memory does not grow with tokens x vocabulary.

Shapes: N tokens, C tokens of one chunk, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once: 64 MiB in float32."""

TokenValue = Callable[[torch.Tensor, slice], torch.Tensor]
"""(logits_CV in float32, which of the N tokens they are) -> one value a token, shape (C,)."""


class OutputHead:
    """A causal language model's map from hidden states to logits, soft-capping included.

    Args:
        model: a Hugging Face causal LM, with or without a PEFT adapter.
        chunk_elements: logits held at once.
    """

    def __init__(self, model: Any, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.linear = causal.get_output_embeddings()
        self.cap = float(getattr(causal.config, "final_logit_softcapping", None) or 0.0)
        self.frozen = not any(p.requires_grad for p in self.linear.parameters())
        self._held: torch.Tensor | None = None
        self.vocabulary = int(causal.config.get_text_config().vocab_size)
        self.chunk = max(16, chunk_elements // self.vocabulary)

    def logits(self, hidden_CD: torch.Tensor) -> torch.Tensor:
        """Returns logits_CV in float32."""
        if self._held is not None:  # under ZeRO-3 a call of the module would let go of the weight we hold
            return self.capped(torch.nn.functional.linear(hidden_CD, self._held, self.linear.bias).float())
        return self.capped(self.linear(hidden_CD).float())

    def capped(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """Returns logits after the model's soft cap, if it has one."""
        return torch.tanh(logits_CV / self.cap) * self.cap if self.cap else logits_CV

    def per_token(self, hidden_ND: torch.Tensor, value: TokenValue, chunks: int = 0) -> torch.Tensor:
        """Returns ``value`` of every token's logits, shape (N,), differentiable in the hidden states and the head.

        A frozen head's gradient is made in the forward pass: it is linear in what comes from above, one number a token,
        so hidden states of the same size are all that is kept. A trained head recomputes its logits in the backward
        pass. Either way one chunk of logits exists at a time.

        Args:
            chunks: call the head so often at least, on no tokens if need be: ZeRO-3 gathers a trained head at each call,
                on all workers or on none.
        """
        slices = list(self.chunks(len(hidden_ND)))
        slices += [slice(len(hidden_ND), len(hidden_ND))] * (chunks - len(slices))
        if not slices:
            return hidden_ND.new_zeros(0, dtype=torch.float32)
        if not torch.is_grad_enabled() or not (hidden_ND.requires_grad or not self.frozen):
            return torch.cat([value(self.logits(hidden_ND[at]), at) for at in slices])
        if self.frozen:
            apply: Any = _FrozenHead.apply
            result_N: torch.Tensor = apply(hidden_ND, self, value)
            return result_N
        return torch.cat(
            [
                checkpoint(lambda h, at=at: value(self.logits(h), at), hidden_ND[at], use_reentrant=False)
                for at in slices
            ]
        )

    def chunks(self, tokens: int) -> Iterator[slice]:
        """Yields the tokens whose logits exist together."""
        for start in range(0, tokens, self.chunk):
            yield slice(start, min(tokens, start + self.chunk))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Holds a frozen head's weight gathered, where ZeRO-3 shards it; no other module may use it meanwhile."""
        if not self.frozen:
            yield
            return
        weight_VD = self.linear.weight
        with _gathered(weight_VD):
            self._held = weight_VD
            try:
                yield
            finally:
                self._held = None


def _gathered(weight: torch.Tensor) -> AbstractContextManager[Any]:
    if not hasattr(weight, "ds_id"):
        return nullcontext()
    import deepspeed

    whole: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([weight])
    return whole


class _FrozenHead(torch.autograd.Function):
    """Values of logits of a head that is not trained; keeps d value / d hidden, shape (N, D), and nothing else."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, head: OutputHead, value: TokenValue) -> torch.Tensor:
        values, slopes_ND = [], torch.empty_like(hidden_ND)
        weight_VD = head.linear.weight
        for at in head.chunks(len(hidden_ND)):
            raw_CV = torch.nn.functional.linear(hidden_ND[at], weight_VD, head.linear.bias)
            with torch.enable_grad():
                leaf_CV = raw_CV.detach().float().requires_grad_()
                values_C = value(head.capped(leaf_CV), at)
                (slope_CV,) = torch.autograd.grad(values_C.sum(), leaf_CV)
            slopes_ND[at] = slope_CV.to(weight_VD.dtype) @ weight_VD
            values.append(values_C.detach())
        ctx.save_for_backward(slopes_ND)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slopes_ND,) = ctx.saved_tensors
        return above[0].to(slopes_ND.dtype)[:, None] * slopes_ND, None, None
