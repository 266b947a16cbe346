"""How blocks are given to workers: a pool of actors where a model is kept, plain tasks elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trace_ray.cluster.connection import pooled
from trace_ray.config import JudgeConfig

_BLOCKS_IN_TASK = 8

Arguments = Callable[[], tuple[Any, ...]]
"""What a worker is made with; asked for when work begins, for the budget that is left by then."""
Item = dict[str, Any]
Tally = dict[str, Any]


def each_block(worker: type, arguments: Arguments, blocks: list[int], pool: JudgeConfig | None) -> Iterable[Tally]:
    """Yields each block's tally as it is done.

    Args:
        pool: how many actors keep the worker and what each takes; None = the worker keeps no model.
    """
    return in_pool(worker, arguments, blocks, pool) if pool is not None else in_tasks(worker, arguments, blocks)


def in_pool(worker: type, arguments: Arguments, blocks: list[int], pool: JudgeConfig) -> Iterable[Tally]:
    """Yields the tallies of an autoscaling pool of actors; a killed actor's blocks go to others.

    Blocks that a failing endpoint left without some answers come once more at the end, and are then done as they are.
    """
    left: list[int] = []
    for last, todo in ((False, blocks), (True, left)):
        for tally in _pooled(worker, arguments, [{"block": block, "last": last} for block in todo], pool):
            if "left" in tally:
                left.append(tally["left"])
            else:
                yield tally


def _pooled(worker: type, arguments: Arguments, items: list[Item], pool: JudgeConfig) -> Iterable[Tally]:
    made = arguments() if items else ()
    for row in pooled(worker, made, items, pool, in_flight=2):
        yield json.loads(row["tally"])


def in_tasks(worker: type, arguments: Arguments, blocks: list[int]) -> Iterable[Tally]:
    """Yields the tallies of plain tasks, which start sooner than a pool's actors.

    A bounded number is in flight, several blocks in each; Ray repeats those of a lost worker or node.
    """
    import ray

    if not blocks:
        return
    run = ray.remote(num_cpus=1)(run_blocks)
    shared = ray.put(arguments())
    most = max(2, int(2 * ray.cluster_resources().get("CPU", 1)))
    pending: list[Any] = []
    for start in range(0, len(blocks), _BLOCKS_IN_TASK):
        pending.append(run.remote(worker, shared, blocks[start : start + _BLOCKS_IN_TASK]))
        if len(pending) >= most:
            ready, pending = ray.wait(pending)
            yield from (tally for of_blocks in ray.get(ready) for tally in of_blocks)
    for tallies in as_ready(pending):
        yield from tallies


def run_blocks(worker: Callable[..., Any], arguments: tuple[Any, ...], blocks: list[int]) -> list[Tally]:
    """Returns the tallies of some blocks, all done by one worker in this process."""
    run = worker(*arguments)
    return [json.loads(run({"block": block})["tally"]) for block in blocks]


def as_ready(pending: list[Any]) -> Iterable[Any]:
    """Yields the results of Ray tasks as each is done."""
    import ray

    while pending:
        ready, pending = ray.wait(pending)
        yield from ray.get(ready)


def by_tasks(
    function: Callable[..., Any], first: Sequence[Any], *shared: Any, num_cpus: float = 1, least: int = 1
) -> Iterable[Any]:
    """Yields what a function returns of each of ``first``, by a task each, as they are done; a lost one is repeated.

    Args:
        shared: further arguments, the same for each.
        least: of fewer than these the work is done here.
    """
    import ray

    if len(first) < least:
        yield from (function(item, *shared) for item in first)
        return
    run, kept = ray.remote(num_cpus=num_cpus)(function), [ray.put(argument) for argument in shared]
    yield from as_ready([run.remote(item, *kept) for item in first])
