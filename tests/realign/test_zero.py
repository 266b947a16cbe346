"""One training by hand: it moves the adapter, its log holds what was done, and DeepSpeed is told what was asked for.

That ZeRO stages, workers, micro-steps and resumes change nothing is held in tests/invariant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.realign import handmade
from trace_ray.config import RealignConfig
from trace_ray.realign.schedule import rate_factor
from trace_ray.realign.zero import deepspeed_config

STEPS = 20


@dataclass
class Plain:
    """A training of 20 steps on one worker."""

    realign: RealignConfig
    made: dict[str, Any]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder = tmp_path_factory.mktemp("zero")
    config = handmade.tiny_config(handmade.tiny_model(folder / "model"), epochs=5)
    run = handmade.make_run(folder / "run", config)
    return Plain(config.realign, handmade.train(run, config, folder / "out", 1, STEPS))


def test_training_moves_the_adapter_and_lowers_the_loss(plain: Plain) -> None:
    metrics = plain.made["metrics"]
    losses = [row["PUNISH/loss"] for row in metrics if "PUNISH/loss" in row]
    assert losses[0] == pytest.approx(2 * 0.6931, abs=1e-3)
    assert losses[-1] < losses[0] - 0.05
    watched = {"lr", "grad_norm", "tokens", "padding", "seconds", "tokens_per_s", "memory_gib", "workers", "samples"}
    assert all(watched <= set(row) for row in metrics)
    assert all(v.abs().max() > 1e-2 for n, v in plain.made["weights"].items() if "lora_B" in n)


def test_the_logged_rate_is_the_one_that_the_step_took(plain: Plain) -> None:
    realign = plain.realign
    rates = [row["lr"] for row in plain.made["metrics"]]
    steps = plain.made["metrics"][0]["steps"]
    factors = [rate_factor(step, steps, realign.warmup_steps, realign.schedule) for step in range(STEPS)]
    assert rates == pytest.approx([realign.learning_rate * factor for factor in factors])


def test_the_deepspeed_dict() -> None:
    made = deepspeed_config(RealignConfig(zero_stage=3, offload="all", use_gpu=True, max_grad_norm=0.5), "bfloat16")
    assert made["bf16"] == {"enabled": True}
    assert made["gradient_clipping"] == 0.5
    pinned = {"device": "cpu", "pin_memory": True}
    assert made["zero_optimization"] == {"stage": 3, "offload_optimizer": pinned, "offload_param": pinned}
    assert deepspeed_config(RealignConfig(), "float32")["zero_optimization"] == {"stage": 0}
    assert deepspeed_config(RealignConfig(), "bfloat16")["zero_optimization"] == {"stage": 1}
