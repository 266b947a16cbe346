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
from trace_ray.model.packing import PackedBatch
from trace_ray.model.wide import columns, times_columns

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
    """A tap that knows the batch, whose rows it tells apart."""

    batch: PackedBatch

    def dot(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Returns the inner product of each of the batch's rows in float32, shape (B,)."""
        layout = self.batch.layout
        if layout is None:
            return row_dot(self.by_row(a), self.by_row(b))
        a, b = self._tokens_first(a), self._tokens_first(b)
        return layout.by_row((a.float() * b.float()).flatten(1).sum(1))

    def _tokens_first(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the values with the flat row's tokens first, wherever they stand before the features."""
        axes = [axis for axis, size in enumerate(values.shape[:-1]) if size == self.batch.tokens]
        if len(axes) != 1:
            raise self._unknown(values.shape[:-1].numel(), self.batch.tokens)
        return values.movedim(axes[0], 0)

    def by_row(self, values: torch.Tensor) -> torch.Tensor:
        """Returns ``values`` with the rows of a padded batch first: some modules (shared experts) see all tokens in one list.

        Raises: UserError where they are no such list: tokens that were sent to one expert belong to rows unknown.
        """
        rows, tokens = self.batch.input_ids_BT.shape
        if values.dim() > 2 and values.shape[0] == rows:
            return values
        if rows == 1:
            return values[None]
        if values.shape[0] % (rows * tokens):
            raise self._unknown(values.shape[0], rows * tokens)
        return values.reshape(rows, -1, *values.shape[1:])

    @staticmethod
    def _unknown(seen: int, tokens: int) -> UserError:
        remedy = "its share of each row's score is not known: leave out experts and tables of positions"
        return UserError("lora.target_modules", f"a module that sees {seen} of {tokens} tokens", remedy)


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
        a_RI, b_OR = (side[adapter].weight.detach() for side in (module.lora_A, module.lora_B))
        self.rank = len(a_RI)
        self.da_RI, self.db_OR = da_RI.to(a_RI), db_OR.to(b_OR)
        self.at_init = not bool(b_OR.any())
        narrow = module.base_layer.weight.dtype
        self.a_IC, self.b_OC, self.da_IC, self.db_OC = (
            columns(matrix, narrow) for matrix in (a_RI.mT, b_OR, self.da_RI.mT, self.db_OR)
        )
        self.norms_B: torch.Tensor | None = None
        self.run = module.forward

    def forward(self, eps_B: torch.Tensor, x_BTI: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Stands in for the module's forward."""
        x = x_BTI.detach()
        with torch.no_grad():
            ax_BTR = times_columns(x, self.a_IC, self.rank) * self.scale
        if self.at_init:
            output = tap(self.module.base_layer(x_BTI), eps_B, self.along, ax_BTR)
        else:
            output = tap(self.run(x_BTI, *args, **kwargs), eps_B, self.along, ax_BTR, x)
        return output

    def along(self, g_BTO: torch.Tensor, kept: Tensors) -> torch.Tensor:
        if self.norms_B is not None:
            return self._along_and_norms(self.by_row(g_BTO), tuple(self.by_row(tensor) for tensor in kept))
        along_B = self.dot(times_columns(g_BTO, self.db_OC, self.rank), kept[0])
        if not self.at_init:
            by_b, by_da = times_columns(g_BTO, self.b_OC, self.rank), times_columns(kept[1], self.da_IC, self.rank)
            along_B = along_B + self.scale * self.dot(by_b, by_da)
        return along_B

    def _along_and_norms(self, g_BTO: torch.Tensor, kept: Tensors) -> torch.Tensor:
        g_BTO = g_BTO.to(kept[0].dtype)
        pairs = [((g_BTO.mT @ kept[0]).float(), self.db_OR)]
        if not self.at_init:
            g_BTR = times_columns(g_BTO, self.b_OC, self.rank)
            pairs.append(((g_BTR.mT @ kept[1].to(g_BTR.dtype)).float() * self.scale, self.da_RI))
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
        self.run = module.forward
        self.linear, self.embedding = type(module) is torch.nn.Linear, type(module) is torch.nn.Embedding
        by_formula = self.linear or self.embedding  # of a large model nearly all weights: no second copy of them
        self.zeros = {} if by_formula else {name: torch.zeros_like(p) for name, p in module.named_parameters()}

    def forward(self, eps_B: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output = self.run(x, *args, **kwargs)
        detached = x.detach()
        kept = detached if self.linear else self._at_direction(detached)
        return tap(output, eps_B, self.along, kept)

    @torch.no_grad()
    def _at_direction(self, x: torch.Tensor) -> torch.Tensor:
        if self.embedding:
            return torch.nn.functional.embedding(x, self.direction["weight"])
        at = [_call(self.module, self.run, self.zeros | some, x) for some in (self.direction, {})]
        along: torch.Tensor = at[0] - at[1]
        return along

    def along(self, gradient: torch.Tensor, kept: Tensors) -> torch.Tensor:
        if not self.linear:
            return self.dot(gradient, kept[0])
        along_B = torch.zeros(self.batch.rows, device=gradient.device)
        if "weight" in self.direction:
            along_B = self.dot(gradient @ self.direction["weight"], kept[0])
        if "bias" in self.direction:
            along_B = along_B + self.dot(gradient, self.direction["bias"].expand_as(gradient))
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
