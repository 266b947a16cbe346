"""Fewer and larger steps through memory on a GPU: norms, gated activations and adapters as one kernel each.

Each is put in place module by module, by what the module has, and only where it gives what the module itself gives for a
random input; the rest stays as it is. Nothing of transformers or PEFT is replaced for models that come later. What it
brings beside flat rows was not measured apart: tests/gpu/README.md has both together.

T tokens, I and O a linear's inputs and outputs, R the rank of an adapter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from subprocess import SubprocessError
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import _get_current_dispatch_mode

from trace_ray.model.decoder import causal_lm, text_decoder
from trace_ray.model.flat import runs_flat
from trace_ray.model.stand_in import FITTING_ERRORS

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest difference from what a module gives by itself, as a share of its largest output."""
_PLACED = "fused_by_trace_ray"
_TRIAL = 7
"""Tokens of the trial."""

Forward = Callable[..., torch.Tensor]


def how_run(model: Any) -> dict[str, str]:
    """Returns in words how the model runs: ``packing`` and ``kernels``."""
    causal = causal_lm(model)
    return {"packing": "flat" if runs_flat(model) else "rows", "kernels": getattr(causal, _PLACED, "none")}


def fuse(model: Any, kernels: str, device: torch.device | str, *, sharded: bool = False) -> None:
    """Puts fused steps in place where ``kernels`` and the device ask for them; ``how_run`` says which.

    Args:
        model: a causal LM with or without adapter, its weights where they will be used, or on the CPU.
        kernels: ``fused``, ``torch`` = none, or ``auto`` = fused on a GPU.
        device: where it will run.
        sharded: whether ZeRO-3 keeps the weights in parts, which it gathers for modules' own forwards alone.
    """
    on_gpu = torch.device(device).type == "cuda"
    if kernels == "torch" or (kernels == "auto" and not on_gpu):
        return
    activation = _compiled_activation(torch.device(device)) if on_gpu else _activation
    placed = Counter[str]()
    if not sharded:
        for module in text_decoder(model).modules():
            for name, make in (("norm", _norm), ("activation", partial(_gated, activation)), ("adapter", _adapter)):
                forward = make(module)
                if forward is not None and _agrees(module, forward):
                    module.forward = forward
                    placed[name] += 1
    setattr(causal_lm(model), _PLACED, ", ".join(f"{count} {name}s" for name, count in placed.items()) or "none")


def _agrees(module: Any, forward: Forward) -> bool:
    """Whether the new forward gives what the module's own does, dropout left out."""
    weight = next(module.parameters())
    width = module.in_features if hasattr(module, "in_features") else _width(module)
    x_TI = torch.randn(_TRIAL, width, generator=torch.Generator().manual_seed(0)).to(weight)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            own, found = module.forward(x_TI[None]), forward(x_TI[None])
    except FITTING_ERRORS:
        return False
    finally:
        for part, mode in modes:
            part.training = mode
    limit = CLOSE.get(weight.dtype, CLOSE[torch.bfloat16]) * float(own.abs().max())
    return own.shape == found.shape and bool((own - found).abs().max() <= limit)


def _width(module: Any) -> int:
    return int(module.weight.shape[-1] if hasattr(module, "weight") else module.gate_proj.in_features)


def _norm(module: Any) -> Forward | None:
    """RMSNorm as one kernel: it keeps its input and one number a token, where eager steps keep four copies in float32."""
    eps = getattr(module, "variance_epsilon", None)
    if not type(module).__name__.endswith("RMSNorm") or eps is None or getattr(module, "weight", None) is None:
        return None

    def forward(x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, module.weight.shape, module.weight, eps)

    return forward


def _gated(activation: Forward | None, module: Any) -> Forward | None:
    """silu(gate) x up as one kernel; its backward makes silu anew."""
    linears = ("gate_proj", "up_proj", "down_proj")
    if activation is None or not all(hasattr(module, name) for name in (*linears, "act_fn")):
        return None

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = module.down_proj(activation(module.gate_proj(x), module.up_proj(x)))
        return result

    return forward


def _activation(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return functional.silu(gate) * up


@cache
def _compiled_activation(device: torch.device) -> Forward | None:
    """Returns the activation compiled, None where nothing can be compiled (no C compiler on the node): modules keep theirs."""
    compiled: Any = torch.compile(_activation, dynamic=True)
    gate, up = (torch.randn(_TRIAL, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in "gu")
    try:
        compiled(gate, up).sum().backward()
    except (RuntimeError, OSError, ImportError, SubprocessError):  # torch's own compile errors are RuntimeErrors
        return None
    return compiled  # type: ignore[no-any-return]


def _adapter(module: Any) -> Forward | None:
    """A LoRA linear that adds its low-rank part inside the product, where PEFT takes five steps through the output."""
    from peft.tuners.lora import Linear

    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear or len(module.lora_A) != 1:
        return None
    (adapter,) = module.lora_A
    a, b = module.lora_A[adapter], module.lora_B[adapter]
    plain = a.bias is None and b.bias is None and not module.lora_variant.get(adapter)
    if not plain or module.base_layer.weight.requires_grad or a.weight.dtype != module.base_layer.weight.dtype:
        return None
    own, base, dropout, scale = module.forward, module.base_layer, module.lora_dropout[adapter], module.scaling[adapter]

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if module.disable_adapters or module.merged or args or kwargs:
            return own(x, *args, **kwargs)  # type: ignore[no-any-return]
        x_TI = x.reshape(-1, x.shape[-1])
        dropped = dropout.training and getattr(dropout, "p", 0.0) > 0
        apply: Any = _LoraLinear.apply
        y_TO = apply(x_TI, dropout(x_TI) if dropped else None, base.weight, base.bias, a.weight, b.weight, scale)
        return y_TO.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]

    return forward


class _LoraLinear(torch.autograd.Function):
    """W x + b + scale B A x; the base is frozen. Both its products with R columns add to what is there."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: torch.Tensor,
        dropped_TI: torch.Tensor | None,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        seen_TI = x_TI if dropped_TI is None else dropped_TI
        down_TR = seen_TI @ a_RI.mT
        ctx.save_for_backward(seen_TI, weight_OI, a_RI, b_OR, down_TR)
        ctx.scale, ctx.dropped = scale, dropped_TI is not None
        y_TO = functional.linear(x_TI, weight_OI, bias_O)
        # Where a layer is checkpointed selectively it may keep this product, which is then not to be written into.
        add = y_TO.addmm_ if _get_current_dispatch_mode() is None else y_TO.addmm
        return add(down_TR, b_OR.mT, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        seen_TI, weight_OI, a_RI, b_OR, down_TR = ctx.saved_tensors
        (g_TO,) = above
        up_TR = (g_TO @ b_OR).mul_(ctx.scale)
        by_a = up_TR.mT @ seen_TI if ctx.needs_input_grad[4] else None
        by_b = (g_TO.mT @ down_TR).mul_(ctx.scale) if ctx.needs_input_grad[5] else None
        by_x = g_TO @ weight_OI if ctx.needs_input_grad[0] else None
        by_dropped = None
        if ctx.dropped and ctx.needs_input_grad[1]:
            by_dropped = up_TR @ a_RI
        elif by_x is not None and not ctx.dropped:
            by_x.addmm_(up_TR, a_RI)
        return by_x, by_dropped, None, None, by_a, by_b, None
