"""DeepSpeed's configuration, built in this one place."""

from __future__ import annotations

from typing import Any

from trace_ray.config import RealignConfig


def deepspeed_config(realign: RealignConfig, dtype: str) -> dict[str, Any]:
    """Returns the dict that ``deepspeed.initialize`` reads.

    Args:
        realign: batch sizes, clipping and the ZeRO stage (0 = plain data parallel, 1 optimizer, 2 + gradients,
            3 + parameters sharded).
        dtype: of the model's weights: float32 or bfloat16.
    """
    return {
        "train_micro_batch_size_per_gpu": realign.micro_batch,
        "gradient_accumulation_steps": realign.accumulation,
        "gradient_clipping": realign.max_grad_norm,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_optimization": {"stage": realign.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
