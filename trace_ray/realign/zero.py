"""DeepSpeed's configuration, built in this one place."""

from __future__ import annotations

from typing import Any

from trace_ray.config import RealignConfig


def deepspeed_config(realign: RealignConfig, dtype: str) -> dict[str, Any]:
    """Returns the dict that ``deepspeed.initialize`` reads.

    Args:
        realign: clipping, ZeRO stage (0 = plain data parallel, 1 optimizer sharded, 2 + gradients, 3 + parameters) and
            what is kept in CPU memory.
        dtype: of the model's weights: float32 or bfloat16.

    The batch keys count nothing here: micro-batches are made to a token budget, so their number differs from step to
    step, and the loop itself says where a step ends.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": realign.max_grad_norm,
        "bf16": {"enabled": dtype == "bfloat16"},
        # Where the model is bfloat16, DeepSpeed would add up micro-batches and workers in it: of 1 + 1/1024 it keeps 1.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": _zero(realign, dtype),
        "zero_allow_untested_optimizer": True,  # torch's AdamW: DeepSpeed's own needs a compiler on every node
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def used_stage(zero_stage: int, dtype: str) -> int:
    """Returns the ZeRO stage that is run: 1 for 0 in bfloat16, where DeepSpeed hides the float32 masters and moments."""
    return max(zero_stage, 1) if dtype == "bfloat16" else zero_stage


def _zero(realign: RealignConfig, dtype: str) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": used_stage(realign.zero_stage, dtype)}
    memory = {"device": "cpu", "pin_memory": realign.on_gpu}
    if realign.offload != "none":
        zero["offload_optimizer"] = memory
    if realign.offload == "all":
        zero["offload_param"] = memory
    return zero
