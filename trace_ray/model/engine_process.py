"""The process that an engine lives in: its environment, before torch and vLLM look, and whether it has a card."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from trace_ray.config.gpus import EXECUTOR
from trace_ray.runtime import environment
from trace_ray.storage.staging import cache_folder, home_cache


def prepare_process(*, gpus: float | None, kv_cache_gib: float, num_cpus: float, engine: Mapping[str, Any]) -> None:
    """Sets the variables that vLLM and torch read.

    Args:
        gpus: of the process; 0 = it sees none, None = it sees what there is.
        engine: further arguments of vLLM's: what spreads over Ray has its GPUs elsewhere.
    """
    environment.prepare()
    if gpus == 0 and engine.get(EXECUTOR) != "ray":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks; Ray does so only for workers of a run's own Ray
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if home_cache() is None:  # else vLLM keeps there what it has compiled
        os.environ.setdefault("VLLM_CACHE_ROOT", str(cache_folder() / "vllm"))
    if not has_gpu():
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, math.ceil(kv_cache_gib)))
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["OMP_NUM_THREADS"] = str(max(1, math.floor(num_cpus)))
        # torch's compiler reads it too: told to use no vectors, it writes C++ for vLLM that does not compile (torch 2.14).
        os.environ.pop("ATEN_CPU_CAPABILITY", None)


def has_gpu() -> bool:
    """Returns whether this process has a GPU that torch can use."""
    import torch

    return bool(torch.cuda.is_available())
