"""What each module adds to the derivative along a direction: one tap a module.

A tap stands for adding eps_b (V x)_b to a module's output in row b, V x being the module's output along the direction.
As eps is 0 nothing is added; in the backward pass the tap reads the gradient G of the output and yields
d / d eps_b = sum over places and features of G (V x), in float32. So no gradient of any weight is ever made.

B rows, T tokens, I and O a module's inputs and outputs, R the rank of an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.func import functional_call

from trace_ray.errors import UserError

Tensors = tuple[torch.Tensor, ...]
Along = Callable[[torch.Tensor, Tensors], torch.Tensor]
"""(gradient of a module's output, what its forward kept) -> derivative of each row, float32, shape (B,)."""


class Tap(torch.autograd.Function):
    """The identity on ``output``; its backward gives eps its gradient."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, eps_B: torch.Tensor, along: Along, *kept: torch.Tensor) -> torch.Tensor:
        del eps_B  # 0: it is there for its gradient
        ctx.along = along
        ctx.save_for_backward(*kept)
        ctx.mark_dirty(
            output
        )  # which a view of it, or another name for it, would keep from being changed in place later
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept: Tensors = ctx.saved_tensors  # read once: a checkpointed layer is run again for each reading
        return gradient, ctx.along(gradient, kept), None, *(None for _ in kept)


def tap(output: torch.Tensor, eps_B: torch.Tensor, along: Along, *kept: torch.Tensor) -> torch.Tensor:
    """Returns ``output``, tapped."""
    apply: Any = Tap.apply
    tapped: torch.Tensor = apply(output, eps_B, along, *kept)
    return tapped


def row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Returns the inner product of each row in float32, shape (B,)."""
    return (a.float() * b.float()).flatten(1).sum(1)


class RowTap:
    """A tap that knows how many rows and tokens the batch has."""

    rows, tokens = 1, 1

    def by_row(self, values: torch.Tensor) -> torch.Tensor:
        """Returns ``values`` with the batch's rows first: some modules (shared experts) see all tokens in one list.

        Raises: UserError where they are no such list: tokens that were sent to one expert belong to rows unknown.
        """
        if values.dim() > 2 and values.shape[0] == self.rows:
            return values
        if self.rows == 1:
            return values[None]
        if values.shape[0] % (self.rows * self.tokens):
            seen = f"a module that sees {values.shape[0]} of {self.rows * self.tokens} tokens"
            remedy = "its share of each row's score is not known: leave out experts and tables of positions"
            raise UserError("lora.target_modules", seen, remedy)
        return values.reshape(self.rows, -1, *values.shape[1:])


class LoraTap(RowTap):
    """A LoRA linear W x + scale B A x, directions dA and dB.

    Along the direction its output is scale (dB A x + B dA x), and scale dB A x alone while B = 0. While B = 0 the adapter
    adds nothing either, so it is not run.

    Args:
        module: of PEFT; da_RI, db_OR: the direction.

    Where ``norms_B`` is set it gains the squared norm of each row's gradient by A and B: exact, for T O R (and T I R away
    from B = 0) multiplications a row, what the tap costs without, and B O R numbers for a moment.
    """

    def __init__(self, module: Any, da_RI: torch.Tensor, db_OR: torch.Tensor) -> None:
        adapter = module.active_adapters[0]
        self.module = module
        self.scale: float = module.scaling[adapter]
        self.a_RI = module.lora_A[adapter].weight.detach()
        self.b_OR = module.lora_B[adapter].weight.detach()
        self.da_RI, self.db_OR = da_RI.to(self.a_RI), db_OR.to(self.b_OR)
        self.at_init = not bool(self.b_OR.any())
        self.norms_B: torch.Tensor | None = None
        self.run = module.forward

    def forward(self, eps_B: torch.Tensor, x_BTI: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Stands in for the module's forward."""
        x = x_BTI.detach().to(self.a_RI.dtype)
        with torch.no_grad():
            ax_BTR = (x @ self.a_RI.T) * self.scale
        if self.at_init:
            output = tap(self.module.base_layer(x_BTI), eps_B, self.along, ax_BTR)
        else:
            output = tap(self.run(x_BTI, *args, **kwargs), eps_B, self.along, ax_BTR, x)
        return output

    def along(self, g_BTO: torch.Tensor, kept: Tensors) -> torch.Tensor:
        g = self.by_row(g_BTO).to(self.a_RI.dtype)
        kept = tuple(self.by_row(tensor) for tensor in kept)
        if self.norms_B is not None:
            return self._along_and_norms(g, kept)
        along_B = row_dot(g @ self.db_OR, kept[0])
        if not self.at_init:
            along_B = along_B + self.scale * row_dot(g @ self.b_OR, kept[1] @ self.da_RI.T)
        return along_B

    def _along_and_norms(self, g_BTO: torch.Tensor, kept: Tensors) -> torch.Tensor:
        pairs = [((g_BTO.mT @ kept[0]).float(), self.db_OR)]
        if not self.at_init:
            pairs.append((((g_BTO @ self.b_OR).mT @ kept[1]).float() * self.scale, self.da_RI))
        along_B = torch.zeros(len(g_BTO), device=g_BTO.device)
        for gradient_BXY, v_XY in pairs:
            along_B += row_dot(gradient_BXY, v_XY.expand_as(gradient_BXY))
            assert self.norms_B is not None
            self.norms_B += row_dot(gradient_BXY, gradient_BXY)
        return along_B


class WeightTap(RowTap):
    """A module whose own weights have a direction; its output is affine in them.

    ``nn.Linear`` and ``nn.Embedding`` by their formulas; norms (any leaf that is affine in its weights) by evaluating
    the module at the direction and at 0.
    """

    def __init__(self, module: torch.nn.Module, direction: Mapping[str, torch.Tensor]) -> None:
        self.module = module
        self.direction = {name: value.to(dict(module.named_parameters())[name]) for name, value in direction.items()}
        self.zeros = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
        self.run = module.forward
        self.linear = type(module) is torch.nn.Linear

    def forward(self, eps_B: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output = self.run(x, *args, **kwargs)
        detached = x.detach()
        kept = detached if self.linear else self._at_direction(detached)
        return tap(output, eps_B, self.along, kept)

    @torch.no_grad()
    def _at_direction(self, x: torch.Tensor) -> torch.Tensor:
        if type(self.module) is torch.nn.Embedding:
            return torch.nn.functional.embedding(x, self.direction["weight"])
        at = [_call(self.module, self.run, self.zeros | some, x) for some in (self.direction, {})]
        along: torch.Tensor = at[0] - at[1]
        return along

    def along(self, gradient: torch.Tensor, kept: Tensors) -> torch.Tensor:
        gradient, kept = self.by_row(gradient), tuple(self.by_row(tensor) for tensor in kept)
        if not self.linear:
            return row_dot(gradient, kept[0])
        along_B = torch.zeros(len(gradient), device=gradient.device)
        if "weight" in self.direction:
            along_B = row_dot(gradient @ self.direction["weight"], kept[0])
        if "bias" in self.direction:
            along_B = along_B + (gradient.float() @ self.direction["bias"].float()).flatten(1).sum(1)
        return along_B


def _call(module: torch.nn.Module, run: Callable[..., Any], weights: dict[str, torch.Tensor], x: torch.Tensor) -> Any:
    tapped = module.forward
    module.forward = run
    try:
        return functional_call(module, weights, (x,))
    finally:
        module.forward = tapped


def weight_taps(
    model: torch.nn.Module, direction: Mapping[str, torch.Tensor], head: torch.nn.Module
) -> list[WeightTap]:
    """Returns a tap for each module, the output head left out, that owns a parameter of the direction.

    A tied embedding's direction goes to every module that owns the parameter.

    Raises: UserError where a module's output need not be affine in its parameters.
    """
    of = {id(parameter): direction[name] for name, parameter in model.named_parameters() if name in direction}
    taps = []
    for name, module in model.named_modules():
        own = {n: of[id(p)] for n, p in module.named_parameters(recurse=False) if id(p) in of}
        if not own or module is head:
            continue
        leaf = not any(True for _ in module.children())
        known = isinstance(module, (torch.nn.Linear, torch.nn.Embedding, torch.nn.LayerNorm))
        if not leaf or not (known or type(module).__name__.endswith("Norm")):
            if not any(value.any() for value in own.values()):  # no text passes through it: a part for images
                continue
            kind = type(module).__name__
            raise UserError(
                "impact.parameters",
                "full",
                f"{name} is a {kind}: only linears, embeddings and norms are known; use lora",
            )
        taps.append(WeightTap(module, own))
    return taps
