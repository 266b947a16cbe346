"""Where a run's work is done: the Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Which cluster: empty = the one this process belongs to (RAY_ADDRESS), else a local one.

    Args:
        stall_minutes: the driver ends, with exit code 3, where nothing was counted as done for so long: more than the
            slowest block of a judge or start of a stage takes. 0 = it waits for ever.
        max_cost: the driver ends where the cluster, at ``plan.cpu_hour_price`` and ``plan.gpu_hour_price``, has cost so
            much while drivers of the run ran; `trace-ray plan` says what twice its estimate is. 0 = no limit.
    """

    address: str = ""
    local_cpus: int = 0
    stall_minutes: float = 0.0
    max_cost: float = 0.0
