"""One worker that runs two micro-steps of known gradients and prints the norm of what DeepSpeed makes of them."""

from __future__ import annotations

from typing import Any

import torch

from trace_ray.config import RealignConfig
from trace_ray.config.zero import deepspeed_config
from trace_ray.realign.setup import compile_nothing

SMALL = 2.0**-10
"""Added to 1 it is lost in bfloat16."""


class Weights(torch.nn.Module):
    """Weights whose gradient is what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(64, 64))

    def forward(self, gradient: float) -> torch.Tensor:
        return (self.weight * gradient).sum()


def main(stage: int, offload: str) -> None:
    """Prints the norm of the mean over workers of the sum over micro-steps."""
    import deepspeed

    compile_nothing()
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    model = Weights().bfloat16()
    realign = RealignConfig(zero_stage=stage, offload=offload, max_grad_norm=0.0)
    engine: Any = deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()),
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        config=deepspeed_config(realign, "bfloat16"),
    )[0]
    for micro in range(2):
        engine.set_gradient_accumulation_boundary(micro == 1)
        engine.backward(engine(1.0 if (rank, micro) == (0, 0) else SMALL))
    engine.step()
    print(f"norm {float(engine.get_global_grad_norm())}", flush=True)
