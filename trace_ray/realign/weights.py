"""Trained weights and optimizer state, whole: gathered from and dealt to whatever ZeRO stage and number of workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"


def trainable(model: Any) -> Iterator[tuple[str, Any]]:
    """Yields (name, parameter) of what is trained."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def gathered_weights(model: Any, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Returns the trained weights on CPU, one parameter gathered at a time; nothing on ranks that do not ``keep`` it.

    Every rank must call it: ZeRO-3 gathers from all of them.
    """
    import deepspeed

    whole = {}
    for name, parameter in trainable(model):
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if keep:
                whole[name] = parameter.detach().cpu().clone().contiguous()
    return whole


def check_weights(state: Mapping[str, torch.Tensor]) -> None:
    """Raises RuntimeError for no weights, an empty one or one that is not finite."""
    if not state:
        raise RuntimeError("there are no trained weights to save")
    for name, value in state.items():
        if not value.numel() or not math.isfinite(float(value.float().abs().sum())):
            raise RuntimeError(f"weight {name}: {'empty' if not value.numel() else 'not finite'}; not saved")


def gathered_optimizer(engine: Any, model: Any, *, keep: bool) -> dict[str, torch.Tensor]:
    """Returns ``NAME.exp_avg``, ``NAME.exp_avg_sq`` and ``NAME.master`` (the float32 weight), each whole, on CPU."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    state: dict[str, torch.Tensor] = {}
    for name, parameter in trainable(model):
        for kind in (*MOMENTS, MASTER):
            if _plain(engine):
                value = parameter if kind == MASTER else _plain_moment(engine, parameter, kind)
            elif kind == MASTER:
                value = safe_get_full_fp32_param(parameter)
            else:
                value = safe_get_full_optimizer_state(parameter, kind)
            if keep:
                state[f"{name}.{kind}"] = value.detach().float().cpu().clone().contiguous()
    return state


def _plain_moment(engine: Any, parameter: Any, kind: str) -> torch.Tensor:
    """A moment of torch's AdamW, which has none before a parameter's first gradient."""
    moment: torch.Tensor = engine.optimizer.state[parameter].get(kind, torch.zeros_like(parameter))
    return moment


def set_optimizer(engine: Any, model: Any, state: Mapping[str, torch.Tensor], steps: int) -> None:
    """Deals what ``gathered_optimizer`` returned to this engine's shards, weights included.

    Args:
        steps: that the optimizer has made.
    """
    _make_states(engine, steps)
    for name, parameter in trainable(model):
        for kind in (*MOMENTS, MASTER):
            _set(engine, parameter, kind, state[f"{name}.{kind}"].to(engine.device))
    _publish_weights(engine, model, state)


def _set(engine: Any, parameter: Any, kind: str, value: torch.Tensor) -> None:
    from deepspeed import utils

    if _plain(engine):
        with torch.no_grad():
            (parameter if kind == MASTER else engine.optimizer.state[parameter][kind]).copy_(value)
    elif hasattr(parameter, "ds_id"):
        # DeepSpeed's own setter of whole values fails where the workers do not divide a parameter evenly.
        size = int(parameter.ds_tensor.numel())
        padded = torch.nn.functional.pad(value.flatten(), (0, size * engine.world_size - value.numel()))
        mine = padded[size * engine.global_rank :][:size]
        if kind == MASTER:
            utils.safe_set_local_fp32_param(parameter, mine)
        else:
            utils.safe_set_local_optimizer_state(parameter, mine, kind)
    elif kind == MASTER:
        utils.safe_set_full_fp32_param(parameter, value)
    else:
        utils.safe_set_full_optimizer_state(parameter, value, kind)


def _plain(engine: Any) -> bool:
    """Whether the optimizer is torch's own, on the model's own parameters (ZeRO 0 in float32)."""
    return isinstance(engine.optimizer, torch.optim.Optimizer)


def plain_grad_norm(engine: Any, model: Any) -> torch.Tensor | None:
    """Returns the gradient's norm before clipping, which DeepSpeed does not tell at ZeRO 0 in float32; else None.

    To be called between the last backward pass of a step and ``engine.step``: gradients are then averaged.
    """
    if not _plain(engine):
        return None
    norms = [torch.linalg.vector_norm(p.grad.double()) for _, p in trainable(model) if p.grad is not None]
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _make_states(engine: Any, steps: int) -> None:
    """Makes the moments that torch's AdamW would make at its first step, which a fresh engine has not taken."""
    inner = engine.optimizer if _plain(engine) else engine.optimizer.optimizer
    sharded = engine.zero_optimization_stage() == 3  # which swaps its groups in and out of the inner optimizer
    groups = [p for group in inner.param_groups for p in group["params"]]
    for parameter in engine.optimizer.fp32_partitioned_groups_flat if sharded else groups:
        entry = inner.state[parameter]
        for kind in MOMENTS:
            entry.setdefault(kind, torch.zeros_like(parameter))
        # torch's fused kernel reads the count where the weights are; its other ones on the CPU.
        entry["step"] = torch.tensor(float(steps), device=parameter.device if inner.defaults["fused"] else "cpu")
    if not _plain(engine) and not sharded:
        engine.optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001 - it links moments only at a first step


def _publish_weights(engine: Any, model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Brings the model's own weights into line with the float32 masters that were set."""
    import deepspeed

    if _plain(engine):
        return
    for name, parameter in trainable(model):
        with (
            deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")),
            torch.no_grad(),
        ):
            parameter.copy_(state[f"{name}.{MASTER}"].to(parameter))
