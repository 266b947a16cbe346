"""Pools of Ray Data's actors: they grow with what waits for them, lose nothing, and are told what comes next in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from trace_ray.cluster.connection import ray_runs
from trace_ray.config import JudgeConfig
from trace_ray.errors import EngineStartError, UserError

_STARTS = 4
"""Failures on end of an actor's start that are borne, times the pool's actors: all of one pool may meet the same."""
_PAUSE_S = 5.0
"""Between them: another process' memory is freed, a hub comes back."""
_HELD = 2
"""Items that an actor which reads ahead has: the one it works on, and the one it reads."""


def pooled(
    worker: type,
    arguments: tuple[Any, ...],
    items: list[dict[str, Any]],
    pool: JudgeConfig,
    *,
    ahead: bool = False,
    pause_s: float = _PAUSE_S,
) -> Generator[dict[str, Any], None, None]:
    """Yields what actors of a Ray Data pool return of each item; those of a killed actor go to others.

    Args:
        worker: a class that is made with ``arguments`` once an actor, and called with an item.
        pool: how many actors and what each takes.
        ahead: the worker is not called: it ``read``s an item while it ``work``s on the one before, with what it read.
        pause_s: how long an actor whose start failed for now waits before another takes its place.
    """
    import ray.data

    if not items:
        return
    calls = _HELD if ahead else 1
    _prepare_data(pool, calls)
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _patient(worker, pause_s, ahead=ahead),
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.actors,
            max_size=pool.max_actors,
            max_tasks_in_flight_per_actor=_HELD if ahead else None,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=ahead,
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


def _prepare_data(pool: JudgeConfig, calls: int) -> None:
    """Sets what Ray Data has no argument for, for what is made next.

    Args:
        calls: that run at once in an actor. A pool grows and shrinks by items in flight a call: it would take an actor that
            works on one and reads another for half idle, and never add a second one.
    """
    from ray.data import context

    settings = context.DataContext.get_current()
    settings.max_consecutive_actor_init_deaths = _STARTS * pool.max_actors
    scaling = settings.autoscaling_config
    scaling.actor_pool_util_upscaling_threshold = context.DEFAULT_ACTOR_POOL_UTIL_UPSCALING_THRESHOLD / calls
    scaling.actor_pool_util_downscaling_threshold = context.DEFAULT_ACTOR_POOL_UTIL_DOWNSCALING_THRESHOLD / calls


def _patient(worker: type, pause_s: float, *, ahead: bool) -> type:
    """Returns ``worker`` under its own name, whose start fails only for what may pass: Ray Data tries that again.

    Ray Data does so for any exception of a constructor. A user's mistake is therefore kept for the first item, where it
    ends the run at once.
    """

    class Patient:
        def __init__(self, *arguments: Any) -> None:
            self.mistake: UserError | None = None
            self.turn = threading.Lock()
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
            if not ahead:
                return self.worker(item)  # type: ignore[no-any-return]
            read = self.worker.read(item)
            with self.turn:
                return self.worker.work(item, read)  # type: ignore[no-any-return]

    Patient.__name__ = Patient.__qualname__ = worker.__name__
    return Patient
