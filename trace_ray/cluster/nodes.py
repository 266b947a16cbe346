"""The nodes that a run can have, and what of them ``auto`` stands for: looked at once, when the run has its cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache

from rich.text import Text

from trace_ray.cluster.capacity import NodeGroup
from trace_ray.cluster.connection import elsewhere, ensure_ray
from trace_ray.config import Config, RayConfig
from trace_ray.config.gpus import There, idle_gpus, of_stages, with_gpus
from trace_ray.config.selection import with_selection
from trace_ray.runtime.progress import CONSOLE, warn


def live_nodes() -> list[NodeGroup]:
    """Returns the nodes of the Ray that this process belongs to."""
    import ray

    return [
        NodeGroup(
            name=node["NodeID"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            most=1,
            labels=node["Labels"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def coming_gpus() -> bool:
    """Returns whether the autoscaler has told Ray of a kind of node with GPUs; which labels it has is told nowhere."""
    from ray._private.state import state

    most = state.get_max_resources_from_cluster_config() or {}
    return bool(most.get("GPU"))


def this_machine() -> NodeGroup:
    """Returns this machine as a local Ray has it: GPUs are those that torch can use."""
    import torch

    return NodeGroup(name="this machine", cpus=os.cpu_count() or 1, gpus=torch.cuda.device_count(), most=1)


def gpus_there(config: RayConfig) -> There:
    """Returns what tells whether a node with such labels has a GPU, or could; it looks when it is first asked."""

    @cache
    def found() -> tuple[list[NodeGroup], bool]:
        if not elsewhere(config):
            return [], bool(this_machine().gpus)
        ensure_ray(config)
        return live_nodes(), coming_gpus()

    def there(labels: Mapping[str, str]) -> bool:
        nodes, anyway = found()
        return anyway or any(node.gpus and node.admits(labels) for node in nodes)

    return there


def settle_gpus(config: Config, stages: Sequence[str], there: There | None = None) -> Config:
    """Returns the configuration with numbers wherever it says ``auto``, and says what GPUs are used, or left idle.

    Args:
        stages: those that are still to be done.
        there: see ``gpus_there``, which it is by default.
    """
    stages, there = with_selection(config, stages), there or gpus_there(config.ray)
    settled = with_gpus(config, there, stages)
    if found := {name: f"{float(n):g}" for name, n in of_stages(settled, stages).items() if n}:
        CONSOLE.print(Text(f"GPUs: {', '.join(f'{name}={n}' for name, n in found.items())}"), soft_wrap=True)
    if idle := idle_gpus(config, stages, there):
        told = ", ".join(f"{name}={value}" for name, value in idle.items())
        warn(f"GPUs are left idle, and a model runs on the CPU, by {told}: auto uses them")
    return settled
