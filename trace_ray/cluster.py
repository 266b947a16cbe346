"""Joins the Ray cluster this process belongs to, or starts a local one, quietly."""

from __future__ import annotations

import logging
import os
from typing import Any

from trace_ray import environment
from trace_ray.config import RayConfig

_NO_TIMEOUT = -1
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
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    ray.init(
        **arguments,
        log_to_driver=os.environ.get("TRACE_RAY_DEBUG") == "1",
        logging_level=logging.ERROR,
        runtime_env={"env_vars": variables},
    )
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
    alive = {one["NodeID"] for one in ray.nodes() if one["Alive"]}
    return node in alive - set(state.get_draining_nodes())
