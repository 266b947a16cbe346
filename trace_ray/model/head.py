"""The output head of a causal language model: functions of the logits, a few tokens at a time, under any ZeRO stage.

Scoring, training, drift and stored reference distributions all go through it. Memory does not grow with tokens x
vocabulary.

Shapes: N tokens, C tokens of one chunk, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from trace_ray.errors import UserError
from trace_ray.model.decoder import causal_lm
from trace_ray.model.vocabulary import (
    Head,
    bend,
    chunked_log_probs,
    chunks,
    head_logits,
    logits_and_slope,
    times,
    tokens_at_once,
)

TokenValue = Callable[[torch.Tensor, slice], torch.Tensor]
"""(logits_CV in float32, which of the N tokens they are) -> one value a token, shape (C,)."""


class OutputHead:
    """A causal language model's map from hidden states to logits, scale and soft cap included.

    Args:
        model: a Hugging Face causal LM, with or without a PEFT adapter.
    Raises: UserError where the head is more than one linear.
    """

    def __init__(self, model: Any) -> None:
        causal = causal_lm(model)
        self.linear = causal.get_output_embeddings()
        if type(self.linear) is not torch.nn.Linear:
            remedy = f"{type(causal).__name__}'s output head is not one linear: it is not supported"
            raise UserError("model.path", causal.name_or_path, remedy)
        self._bend = bend(causal.config)
        # Asked of the linear during a forward under ZeRO-3, a weight would be gathered and kept for the module that asks.
        self._weights = (self.linear.weight, self.linear.bias)
        self.frozen = not any(p.requires_grad for p in self.linear.parameters())
        self._held = False
        self.vocabulary = int(self.linear.out_features)

    @property
    def chunk(self) -> int:
        """Tokens whose logits exist together; where the model stands may change it."""
        return tokens_at_once(self._weights[0], self.vocabulary)

    @property
    def sharded(self) -> bool:
        """Whether ZeRO-3 keeps the weight in parts; it may be asked from the engine's start on."""
        return hasattr(self._weights[0], "ds_id")

    def logits(self, hidden_CD: torch.Tensor) -> torch.Tensor:
        """Returns logits_CV in float32."""
        if self._held or not self.sharded:
            return head_logits(hidden_CD, self.weights())
        self.linear.forward = lambda hidden: head_logits(hidden, self.weights())
        try:  # ZeRO-3 gathers a weight for its module's forward alone
            logits_CV: torch.Tensor = self.linear(hidden_CD)
        finally:
            del self.linear.forward
        return logits_CV

    def weights(self) -> Head:
        """Returns weight, bias, cap and scale; under ZeRO-3 they are there while ``whole`` holds them."""
        return Head(*self._weights, *self._bend)

    def log_probs(self, hidden_ND: torch.Tensor, target_N: torch.Tensor, least: int = 0) -> torch.Tensor:
        """Returns log pi(token) in nats, float32, shape (N,); differentiable once, in hidden states and head.

        Args:
            least: as in ``per_token``.
        """
        if self.frozen or not self.sharded:
            return chunked_log_probs(hidden_ND, self.weights(), target_N)
        return self.per_token(
            hidden_ND,
            lambda logits, at: -torch.nn.functional.cross_entropy(logits, target_N[at], reduction="none"),
            least,
        )

    def per_token(self, hidden_ND: torch.Tensor, value: TokenValue, least: int = 0) -> torch.Tensor:
        """Returns ``value`` of every token's logits, shape (N,), differentiable in the hidden states and the head.

        A frozen head's gradient is made in the forward pass: it is linear in what comes from above, one number a token,
        so hidden states of the same size are all that is kept. A trained head recomputes its logits in the backward
        pass. Either way one chunk of logits exists at a time.

        Args:
            least: call the head so often at least, on no tokens if need be: ZeRO-3 gathers a trained head at each call,
                on all workers or on none.
        """
        slices = list(self.chunks(len(hidden_ND)))
        slices += [slice(len(hidden_ND), len(hidden_ND))] * (least - len(slices))
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
        yield from chunks(tokens, self.chunk)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Holds a frozen head's weight gathered, where ZeRO-3 shards it; no other module may use it meanwhile."""
        if not self.frozen:
            yield
            return
        with _gathered([weight for weight in self._weights if hasattr(weight, "ds_id")]):
            self._held = True
            try:
                yield
            finally:
                self._held = False


def _gathered(sharded: list[Any]) -> AbstractContextManager[Any]:
    if not sharded:
        return nullcontext()
    import deepspeed

    whole: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(sharded)
    return whole


class _FrozenHead(torch.autograd.Function):
    """Values of logits of a head that is not trained; keeps d value / d hidden, shape (N, D), and nothing else."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, head: OutputHead, value: TokenValue) -> torch.Tensor:
        values, slopes_ND = [], torch.empty_like(hidden_ND)
        weights = head.weights()
        weight_VD = weights.weight_VD
        for at in head.chunks(len(hidden_ND)):
            logits_CV, bent_slope = logits_and_slope(hidden_ND[at], weights)
            with torch.enable_grad():
                values_C = value(logits_CV.requires_grad_(), at)
                (slope_CV,) = torch.autograd.grad(values_C.sum(), logits_CV)
            slopes_ND[at] = times(slope_CV.clone(), bent_slope).to(weight_VD.dtype) @ weight_VD
            values.append(values_C.detach())
        ctx.save_for_backward(slopes_ND)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slopes_ND,) = ctx.saved_tensors
        return above[0].to(slopes_ND.dtype)[:, None] * slopes_ND, None, None
