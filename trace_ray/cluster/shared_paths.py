"""Local paths on a cluster of several nodes: each has to see the same files there, as on a network file system."""

from __future__ import annotations

import os
from collections.abc import Mapping

from trace_ray.cluster.connection import ray_runs, this_node
from trace_ray.errors import UserError

_NODES, _SECONDS = 16, 60.0
"""Nodes that are asked, and how long they may take: one that just starts or goes says nothing of the paths."""


def missing(paths: Mapping[str, str]) -> list[str]:
    """Returns the names of the paths that are not there."""
    return [name for name, path in paths.items() if not os.path.exists(path)]


def refuse_unseen(paths: Mapping[str, str]) -> None:
    """Raises UserError, naming the setting, where another node that works does not see one of the paths.

    Args:
        paths: {setting: what is there on this node}.
    """
    if not paths or not ray_runs():
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = this_node()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != here]
    look = ray.remote(num_cpus=0, max_retries=0)(missing)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(dict(paths))
        for node in nodes[:_NODES]
    ]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_SECONDS) if asked else ([], [])
    for answer in ready:
        try:
            unseen = ray.get(answer)
        except ray.exceptions.RayError:  # the node went
            continue
        for setting in unseen:
            remedy = "another node of the cluster does not see it: use s3://, or a folder that all nodes share"
            raise UserError(setting, paths[setting], remedy)
