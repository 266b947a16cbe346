"""Joins the Ray cluster this process belongs to, or starts a local one, quietly."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from trace_ray.config import RayConfig
from trace_ray.runtime import environment
from trace_ray.runtime.interrupts import hear_termination

WORKER_NICENESS = "RAY_worker_niceness"
"""What Ray lowers its workers' priority by; read by a node when it starts."""
_NO_TIMEOUT = -1
_NOBODY_TO_ASK = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:0"}
"""In workers of a Ray without a dashboard. Ray Train asks one whether the training's driver still lives, and finds that of any
other cluster on this machine: which never heard of it, whereupon the training's workers are killed."""
_given: dict[str, str] = {}
"""The environment that this process' workers got; empty where another connected it."""


def ensure_ray(config: RayConfig) -> None:
    """Connects once a process, and anew where its workers' environment changed, such as the run's storage settings."""
    environment.prepare()
    import ray

    variables = environment.child_environment()
    if ray.is_initialized():
        if _given in ({}, variables):
            _prepare_data()
            return
        ray.shutdown()
    _given.clear()
    _given.update(variables)
    arguments: dict[str, Any] = {}
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    if address:
        arguments["address"] = address
    else:
        # Without "local" Ray joins whatever runs on this machine, and waits for what no longer does.
        arguments |= {"address": "local", "num_cpus": config.local_cpus or None, "include_dashboard": False}
        # Ray's own is 15: beside anything else that computes its workers get a thirtieth of a core, and a run looks hung.
        os.environ.setdefault(WORKER_NICENESS, "0")
        variables = _NOBODY_TO_ASK | variables
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    ray.init(
        **arguments,
        log_to_driver=os.environ.get("TRACE_RAY_DEBUG") == "1",
        logging_level=logging.ERROR,
        runtime_env={"env_vars": variables},
    )
    hear_termination()
    _prepare_data()


def _prepare_data() -> None:
    """Makes Ray Data quiet, patient and frank in this process, whoever connected it."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = _NO_TIMEOUT  # a block of a slow judge or model may well take longer
    context.raise_original_map_exception = True  # Ray's own wrapper loses its cause, a user's mistake, on the way
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def this_node() -> str:
    """Returns the id of the node that this process runs on, empty where no Ray runs here."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def in_service(node: str) -> bool:
    """Returns whether a node is alive and not about to be taken away; that of no Ray is."""
    import ray
    from ray._private.state import state  # draining nodes are told nowhere else

    if not ray.is_initialized():
        return not node
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return node in alive - set(state.get_draining_nodes())


def ray_runs() -> bool:
    """Returns whether this process belongs to a Ray cluster."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def elsewhere(config: RayConfig) -> bool:
    """Returns whether a run's cluster is of another's making: it may be larger than this machine, or grow."""
    return bool(config.address or os.environ.get("RAY_ADDRESS") or ray_runs())
