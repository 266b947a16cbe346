"""One training by hand: it moves the adapter, its log holds what was done, and DeepSpeed is told what was asked for.

That ZeRO stages, workers, micro-steps and resumes change nothing is held in tests/invariant.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.realign import handmade
from trace_ray.config import RealignConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.config.zero import deepspeed_config, deepspeed_problems
from trace_ray.errors import UserError
from trace_ray.realign.schedule import rate_factor

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
    factors = [rate_factor(step, steps, realign.warm_up(steps), realign.schedule) for step in range(STEPS)]
    assert rates == pytest.approx([realign.learning_rate * factor for factor in factors])


def test_the_deepspeed_dict() -> None:
    made = deepspeed_config(RealignConfig(zero_stage=3, offload="all", use_gpu=True, max_grad_norm=0.5), "bfloat16")
    assert made["bf16"] == {"enabled": True}
    assert made["gradient_clipping"] == 0.5
    pinned = {"device": "cpu", "pin_memory": True}
    assert made["zero_optimization"] == {"stage": 3, "offload_optimizer": pinned, "offload_param": pinned}
    assert deepspeed_config(RealignConfig(), "float32")["zero_optimization"] == {"stage": 0}
    assert deepspeed_config(RealignConfig(), "bfloat16")["zero_optimization"] == {"stage": 1}


def given(deepspeed: dict[str, Any], **more: Any) -> RealignConfig:
    return RealignConfig(deepspeed=deepspeed, **more)


def test_further_keys_of_deepspeed_stand_beside_ours() -> None:
    further: dict[str, Any] = {"zero_optimization": {"overlap_comm": False, "offload_optimizer": {"buffer_count": 8}}}
    further |= {"wall_clock_breakdown": True, "checkpoint": {"tag_validation": "Fail"}, "bf16": {"enabled": False}}
    realign = given(further, zero_stage=2, offload="optimizer")
    assert list(deepspeed_problems(realign, "float32")) == []
    made, plain = deepspeed_config(realign, "float32"), deepspeed_config(replace(realign, deepspeed={}), "float32")
    assert made["wall_clock_breakdown"] is True
    kept = {"device": "cpu", "pin_memory": False, "buffer_count": 8}
    assert made["zero_optimization"] == {"stage": 2, "overlap_comm": False, "offload_optimizer": kept}
    assert {name: made[name] for name in plain if name != "zero_optimization"} == {
        name: value for name, value in plain.items() if name != "zero_optimization"
    }


@pytest.mark.parametrize(
    ("deepspeed", "said"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage: 3: realign.zero_stage decides that"),
        ({"gradient_clipping": 0.3}, "gradient_clipping: 0.3: realign.max_grad_norm decides that"),
        ({"fp16": {"enabled": True}}, "fp16.enabled: True: model.dtype decides that"),
        ({"optimizer": {"type": "Lion"}}, "optimizer.type: Lion: realign.learning_rate decides that"),
        ({"train_batch_size": 64}, "train_batch_size: 64: realign.batch decides that"),
        (
            {"zero_optimization": {"offload_param": {"device": "nvme"}}},
            "zero_optimization.offload_param.device: nvme: realign.offload decides that",
        ),
        *(
            ({"zero_optimization": {name: True}}, f"zero_optimization.{name}: True: realign.offload decides that")
            for name in ("cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory")
        ),
        ({"elasticity": {"enabled": True}}, "elasticity.enabled: True: realign.min_workers decides that"),
        ({"prescale_gradients": True}, "prescale_gradients: True: training rests on what it is"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel.autotp_size: 2: training rests on what it is"),
        ({"checkpoint": {"load_universal": True}}, "checkpoint.load_universal: True: training rests on what it is"),
        ({"communication_data_type": "bf16"}, "communication_data_type: bf16: training rests on what it is"),
        ({"zero_optimization": 2}, "zero_optimization: 2: it is a section"),
    ],
)
def test_keys_that_settings_of_ours_decide_are_refused_when_the_configuration_is_read(
    deepspeed: dict[str, Any], said: str
) -> None:
    brevity = conf_folder() / "policies" / "brevity.yaml"
    with pytest.raises(UserError) as refused:
        load_config([brevity], [f"realign.deepspeed={json.dumps(deepspeed)}"])
    assert str(refused.value).startswith(f"realign.deepspeed.{said}")
    assert "\n" not in str(refused.value)
