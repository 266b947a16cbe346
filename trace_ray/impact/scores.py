"""s(y) = < v, grad log pi(y|x) > for a whole batch in one forward and one backward over activations.

Each row of the batch gets a scalar eps = 0 that scales the direction's contribution at every module (``taps.py``). Then
d (sum of the row's coefficients times log pi(y)) / d eps is the derivative along v of that sum: exactly, row by row,
with no gradient of any weight. Relatives: ghost dot-products, LoGra.
B rows, N response tokens, S responses, D features of a hidden state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trace_ray.errors import UserError
from trace_ray.impact.taps import LoraTap, WeightTap, weight_taps
from trace_ray.model.head import OutputHead
from trace_ray.model.packing import PackedBatch, hidden_states
from trace_ray.model.vocabulary import Head, log_prob_slopes

TokenCoefficient = Callable[[torch.Tensor], torch.Tensor]
"""Log-probs of tokens, shape (N,) -> what the score of each of them counts, shape (N,)."""

Direction = Mapping[str, torch.Tensor]
"""Trainable parameter's name -> v for it: of an adapter's lora_A and lora_B, or of every parameter of the model."""


@dataclass(frozen=True)
class Scored:
    """Of one batch, float32.

    Args:
        logp_S: log pi(y|x) of each response, in nats.
        score_B: of each row, < v, grad sum of coefficient x log pi(y|x) >.
        hidden_SD: of each response the sum of the hidden states that predict its tokens.
        norm_B: of each row, the norm of that gradient; None where it was not asked for.
    """

    logp_S: torch.Tensor
    score_B: torch.Tensor
    hidden_SD: torch.Tensor
    norm_B: torch.Tensor | None = None


def lora_linears(model: Any) -> dict[str, Any]:
    """Returns {module name: LoRA linear} of a PEFT model."""
    from peft.tuners.lora import Linear

    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


class Scorer:
    """Scores batches along one direction.

    Args:
        model: a causal LM or a PEFT model around one, in evaluation mode, every parameter frozen. Its parameters may be
            anywhere, at theta_ref or not.
        direction: v, as ``gold_gradient`` makes it.
    Raises: UserError where a module's share of the direction is not known.
    """

    def __init__(self, model: Any, direction: Direction) -> None:
        self.model = model
        self.head = OutputHead(model)
        adapted = lora_linears(model) if hasattr(model, "get_base_model") else {}
        self.taps: list[LoraTap | WeightTap] = [_lora_tap(n, m, direction) for n, m in adapted.items()]
        self.lora = bool(adapted)
        self.along_head: Head | None = None
        if not adapted:
            linear = model.get_output_embeddings()
            self.taps = list(weight_taps(model, direction, linear))
            self.along_head = _head_direction(model, linear, direction)
        read = {name for n, m in adapted.items() for name in _lora_names(n, m)} if adapted else _owned(model, self.taps)
        _refuse_unread(direction, read, lora=self.lora)

    def score(
        self,
        batch: PackedBatch,
        coefficient_S: torch.Tensor | None = None,
        per_token: Sequence[Sequence[TokenCoefficient]] = (),
        *,
        norms: bool = False,
    ) -> Scored:
        """Returns log-probs and scores from one forward and one backward.

        Args:
            coefficient_S: of each response; 1 if None, so that a row of one response scores s(y).
            per_token: for each response what is added for each of its tokens.
            norms: also the gradients' norms (LoRA only).
        """
        device = batch.input_ids_BT.device
        eps_B = torch.zeros(batch.rows, device=device, requires_grad=True)
        norms_B = torch.zeros(batch.rows, device=device) if norms else None
        with self._tapped(batch, eps_B, norms_B):
            hidden_ND = hidden_states(self.model, batch)
            logp_N, gradient_ND, head_N = self._head_pass(hidden_ND.detach(), batch.target_N)
            coefficient_N = _coefficients(batch, coefficient_S, per_token, logp_N)
            gradient_ND *= coefficient_N.to(gradient_ND.dtype)[:, None]
            (score_B,) = torch.autograd.grad(hidden_ND, eps_B, gradient_ND)
        if head_N is not None:
            score_B = score_B.index_add(0, batch.row_N, head_N * coefficient_N)
        hidden_SD = self._hidden_sums(hidden_ND.detach(), batch)
        return Scored(batch.by_response(logp_N), score_B, hidden_SD, None if norms_B is None else norms_B.sqrt())

    def _hidden_sums(self, hidden_ND: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        sums_SD = torch.zeros(batch.responses, hidden_ND.shape[1], device=hidden_ND.device)
        for at in self.head.chunks(len(hidden_ND)):
            sums_SD.index_add_(0, batch.response_N[at], hidden_ND[at].float())
        return sums_SD

    def _head_pass(
        self, hidden_ND: torch.Tensor, target_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Returns log pi(token), its gradient by the hidden state, and its derivative along the head's own direction."""
        logp_N = torch.empty(len(hidden_ND), device=hidden_ND.device)
        gradient_ND = torch.empty_like(hidden_ND)
        head_N = torch.zeros_like(logp_N) if self.along_head else None
        weights = self.head.weights().detached()
        weight_VD = weights.weight_VD
        for at in self.head.chunks(len(hidden_ND)):
            logp_N[at], slope_nV = log_prob_slopes(hidden_ND[at], weights, target_N[at])
            gradient_ND[at] = slope_nV.to(weight_VD.dtype) @ weight_VD
            if self.along_head and head_N is not None:
                v_VD, v_V = self.along_head.weight_VD, self.along_head.bias_V
                head_N[at] = ((slope_nV.to(v_VD.dtype) @ v_VD).float() * hidden_ND[at].float()).sum(-1)
                if v_V is not None:
                    head_N[at] += slope_nV @ v_V.float()
        return logp_N, gradient_ND, head_N

    @contextmanager
    def _tapped(self, batch: PackedBatch, eps_B: torch.Tensor, norms_B: torch.Tensor | None) -> Iterator[None]:
        """While open, every module of the direction runs through its tap."""
        if norms_B is not None and not self.lora:
            raise UserError("impact.score_norm", "cosine", "gradient norms are known for impact.parameters=lora only")
        stood = [vars(tap.module).get("forward") for tap in self.taps]  # hooks of others, such as accelerate's
        for tap in self.taps:
            tap.module.forward = _through(tap, eps_B)
            tap.batch = batch
            if isinstance(tap, LoraTap):
                tap.norms_B = norms_B
        try:
            with torch.enable_grad():
                yield
        finally:
            for tap, before in zip(self.taps, stood, strict=True):
                if before is None:
                    del tap.module.forward
                else:
                    tap.module.forward = before


def _coefficients(
    batch: PackedBatch,
    coefficient_S: torch.Tensor | None,
    per_token: Sequence[Sequence[TokenCoefficient]],
    logp_N: torch.Tensor,
) -> torch.Tensor:
    """What the score of each token counts, shape (N,)."""
    coefficient_N = torch.ones_like(logp_N)
    if coefficient_S is not None:
        coefficient_N = coefficient_S.to(logp_N)[batch.response_N]
    for number, functions in enumerate(per_token):
        if functions:
            mine = batch.response_N == number
            coefficient_N[mine] += torch.stack([function(logp_N[mine]) for function in functions]).sum(0)
    return coefficient_N


def _through(tap: LoraTap | WeightTap, eps_B: torch.Tensor) -> Any:
    return lambda *args, **kwargs: tap.forward(eps_B, *args, **kwargs)


def _lora_names(name: str, module: Any) -> list[str]:
    return [f"{name}.lora_{side}.{module.active_adapters[0]}.weight" for side in "AB"]


def _lora_tap(name: str, module: Any, direction: Direction) -> LoraTap:
    return LoraTap(module, *(direction[full] for full in _lora_names(name, module)))


def _owned(model: Any, taps: Sequence[LoraTap | WeightTap]) -> set[str]:
    """Names of the parameters that the taps' modules or the output head own."""
    modules = [*(tap.module for tap in taps), model.get_output_embeddings()]
    read = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in read}


def _refuse_unread(direction: Direction, read: set[str], *, lora: bool) -> None:
    lost = sorted(name for name in set(direction) - read if direction[name].any())
    if lost:
        setting = "lora.target_modules" if lora else "impact.parameters"
        remedy = "its share of a score is not known: name linears of the decoder alone, or all-linear"
        raise UserError(setting, f"{lost[0]} ({len(lost)} in all)", remedy)


def _head_direction(model: Any, linear: torch.nn.Linear, direction: Direction) -> Head | None:
    """The direction of the output head, which may be the input embedding's too."""
    of = {id(parameter): direction[name] for name, parameter in model.named_parameters() if name in direction}
    weight, bias = of.get(id(linear.weight)), of.get(id(linear.bias))
    if weight is None and bias is None:
        return None
    weight_VD = torch.zeros_like(linear.weight) if weight is None else weight.to(linear.weight)
    return Head(weight_VD.detach(), None if bias is None else bias.to(linear.weight))
