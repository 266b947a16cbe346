"""Joins the Ray cluster this process belongs to, or starts a local one, quietly."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from trace_ray.config import JudgeConfig, RayConfig
from trace_ray.errors import EngineStartError, UserError
from trace_ray.runtime import environment
from trace_ray.runtime.interrupts import hear_termination

WORKER_NICENESS = "RAY_worker_niceness"
"""What Ray lowers its workers' priority by; read by a node when it starts."""
_NO_TIMEOUT = -1
_STARTS = 4
"""Failures on end of an actor's start that are borne, times the pool's actors: all of one pool may meet the same."""
_PAUSE_S = 5.0
"""Between them: another process' memory is freed, a hub comes back."""
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


def pooled(
    worker: type,
    arguments: tuple[Any, ...],
    items: list[dict[str, Any]],
    pool: JudgeConfig,
    *,
    in_flight: int | None = None,
    pause_s: float = _PAUSE_S,
) -> Generator[dict[str, Any], None, None]:
    """Yields what actors of a Ray Data pool return of each item; those of a killed actor go to others.

    Args:
        worker: a class that is made with ``arguments`` once an actor, and called with an item.
        pool: how many actors and what each takes; in_flight: items that one holds; None = Ray's default.
        pause_s: how long an actor whose start failed for now waits before another takes its place.
    """
    import ray.data

    if not items:
        return
    ray.data.DataContext.get_current().max_consecutive_actor_init_deaths = _STARTS * pool.max_actors
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _patient(worker, pause_s),
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.actors, max_size=pool.max_actors, max_tasks_in_flight_per_actor=in_flight
        ),
        num_cpus=pool.num_cpus,
        num_gpus=pool.gpus or None,
        label_selector=pool.label_selector or None,
    )
    with _room(pool, min(pool.max_actors, len(items))):
        yield from dataset.iter_rows()


@contextmanager
def _room(pool: JudgeConfig, actors: int) -> Iterator[None]:
    """Asks an autoscaler for the nodes of so many actors at once, and takes that back in the end.

    Ray Data adds one actor at a time, each only once those before it are busy: minutes a node. A driver that is killed
    takes nothing back; whatever asks next in its cluster does.
    """
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": pool.num_cpus} | ({"GPU": pool.gpus} if pool.gpus else {})
    if actors > 1:
        request_resources(bundles=[bundle] * actors, bundle_label_selectors=[dict(pool.label_selector)] * actors)
    try:
        yield
    finally:
        if actors > 1 and ray_runs():
            request_resources(bundles=[])


def ray_runs() -> bool:
    """Returns whether this process belongs to a Ray cluster."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def elsewhere(config: RayConfig) -> bool:
    """Returns whether a run's cluster is of another's making: it may be larger than this machine, or grow."""
    return bool(config.address or os.environ.get("RAY_ADDRESS") or ray_runs())


def _patient(worker: type, pause_s: float) -> type:
    """Returns ``worker`` under its own name, whose start fails only for what may pass: Ray Data tries that again.

    Ray Data does so for any exception of a constructor. A user's mistake is therefore kept for the first item, where it
    ends the run at once.
    """

    class Patient:
        def __init__(self, *arguments: Any) -> None:
            self.mistake: UserError | None = None
            try:
                self.worker = worker(*arguments)
            except EngineStartError:
                time.sleep(pause_s)
                raise
            except UserError as mistake:
                self.mistake = mistake

        def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
            if self.mistake is not None:
                raise self.mistake
            return self.worker(item)  # type: ignore[no-any-return]

    Patient.__name__ = Patient.__qualname__ = worker.__name__
    return Patient
