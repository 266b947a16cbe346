"""The optimizer, its learning rate over the run, and when the run is over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trace_ray.config import RealignConfig


def rate_factor(step: int, steps: int, warmup_steps: int, schedule: str) -> float:
    """Returns what the learning rate is multiplied by: linear warm-up, then cosine, linear or constant.

    Args:
        step: from 0; steps: of the run; warmup_steps: those of it (``RealignConfig.warm_up``).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    match schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return 1 - done
    return 1.0


def fuses(realign: RealignConfig, device: str) -> bool:
    """Returns whether AdamW runs as one kernel: where what it moves is on a GPU, ``offload`` not having taken it away.

    The default there is a dozen kernels, each of which takes weights and moments through memory once.

    >>> fuses(RealignConfig(), "cuda"), fuses(RealignConfig(), "cpu"), fuses(RealignConfig(offload="optimizer"), "cuda")
    (True, False, False)
    """
    return device == "cuda" and realign.offload == "none"


def make_optimizer(parameters: list[Any], realign: RealignConfig, steps: int, device: str = "cpu") -> tuple[Any, Any]:
    """Returns AdamW and its schedule over ``steps`` steps.

    Args:
        device: where it will run: ``cpu`` or ``cuda``; the parameters may come there later.
    """
    import torch

    fused = True if fuses(realign, device) else None  # None: torch's own choice, which is none of it
    optimizer = torch.optim.AdamW(parameters, lr=realign.learning_rate, weight_decay=realign.weight_decay, fused=fused)
    warmup, schedule = realign.warm_up(steps), realign.schedule
    factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps, warmup, schedule))
    return optimizer, factor


def converged(grad_norms: Sequence[float], epsilon: float, steps: int) -> bool:
    """Returns whether the last ``steps`` gradient norms are all below ``epsilon`` (Algorithm 1's stop); never at 0.

    Of a state that is displaced or collapsed (``runs.alarms``) it does not count.

    >>> converged([1.0, 0.1, 0.2], epsilon=0.5, steps=2), converged([0.1], epsilon=0.5, steps=2)
    (True, False)
    """
    last = list(grad_norms)[-steps:]
    return epsilon > 0 and len(last) == steps and all(norm < epsilon for norm in last)
