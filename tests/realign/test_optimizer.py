"""The optimizer's settings, seen in what a step does to a weight."""

from __future__ import annotations

import pytest
import torch

from trace_ray.config import RealignConfig
from trace_ray.realign.schedule import make_optimizer


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_without_a_gradient_a_weight_shrinks_by_rate_times_decay_alone(decay: float) -> None:
    """AdamW's decay is decoupled: w <- w (1 - rate x decay), whatever the gradient's moments."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -3.0]))
    weight.grad = torch.zeros(2)
    realign = RealignConfig(learning_rate=0.1, weight_decay=decay, warmup_steps=0, schedule="constant")
    optimizer, schedule = make_optimizer([weight], realign, steps=2)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    shrunk = (1 - 0.1 * decay) ** 2
    assert weight.tolist() == pytest.approx([2 * shrunk, -3 * shrunk])


def test_one_kernel_moves_weights_on_a_gpu_alone() -> None:
    """That the kernel itself does as the others do is torch's; here it is asked for, or not, by the rule."""
    weight = torch.nn.Parameter(torch.ones(2))
    asked = {
        (device, offload): make_optimizer([weight], RealignConfig(offload=offload), 2, device)[0].defaults["fused"]
        for device in ("cpu", "cuda")
        for offload in ("none", "optimizer", "all")
    }
    assert [where for where, fused in asked.items() if fused] == [("cuda", "none")]
    assert {fused for where, fused in asked.items() if where != ("cuda", "none")} == {None}  # torch's own default
    assert torch.optim.AdamW([weight]).defaults["fused"] is None
