"""How blocks are given to workers: a pool of actors where a model is kept, plain tasks elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from trace_ray.cluster.data_pool import pooled
from trace_ray.cluster.tasks import as_done, by_tasks
from trace_ray.config import JudgeConfig
from trace_ray.storage.at_once import read_ahead, side_by_side

_BLOCKS_IN_TASK = 8

Arguments = Callable[[], tuple[Any, ...]]
"""What a worker is made with; asked for when work begins, for the budget that is left by then."""
T = TypeVar("T")
Item = dict[str, Any]
Tally = dict[str, Any]


class Worker(Protocol):
    """Does blocks one at a time; the next one is read meanwhile."""

    def read(self, item: Item) -> Any:
        """Returns what a block holds; called in a thread of its own."""

    def work(self, item: Item, read: Any) -> Item:
        """Does a block, of which ``read`` was read; returns its number and its tally."""


def each_block(
    worker: type[Worker], arguments: Arguments, blocks: list[int], pool: JudgeConfig | None
) -> Iterable[Tally]:
    """Yields each block's tally as it is done.

    Args:
        pool: how many actors keep the worker and what each takes; None = the worker keeps no model.
    """
    return in_pool(worker, arguments, blocks, pool) if pool is not None else in_tasks(worker, arguments, blocks)


def in_pool(worker: type[Worker], arguments: Arguments, blocks: list[int], pool: JudgeConfig) -> Iterable[Tally]:
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


def _pooled(worker: type[Worker], arguments: Arguments, items: list[Item], pool: JudgeConfig) -> Iterable[Tally]:
    made = arguments() if items else ()
    for row in pooled(worker, made, items, pool, ahead=True):
        yield json.loads(row["tally"])


def in_tasks(worker: type[Worker], arguments: Arguments, blocks: list[int]) -> Iterable[Tally]:
    """Yields the tallies of plain tasks, which start sooner than a pool's actors.

    Several blocks in each; Ray repeats those of a lost worker or node.
    """
    import ray

    if not blocks:
        return
    run = ray.remote(num_cpus=1)(run_blocks)
    shared = ray.put(arguments())
    pieces = [blocks[start : start + _BLOCKS_IN_TASK] for start in range(0, len(blocks), _BLOCKS_IN_TASK)]
    for tallies in as_done(lambda piece: run.remote(worker, shared, piece), pieces):
        yield from tallies


def run_blocks(worker: type[Worker], arguments: tuple[Any, ...], blocks: list[int]) -> list[Tally]:
    """Returns the tallies of some blocks, all done by one worker in this process."""
    one = worker(*arguments)
    items: list[Item] = [{"block": block} for block in blocks]
    return [json.loads(one.work(*both)["tally"]) for both in zip(items, read_ahead(one.read, items, 1), strict=True)]


def in_order(function: Callable[..., T], items: Sequence[Any], *shared: Any, in_task: int = 64) -> list[T]:
    """Returns what a function returns of each item, in their order: tasks of some each, whose items go side by side."""
    pieces = [(start, items[start : start + in_task]) for start in range(0, len(items), in_task)]
    found = dict(by_tasks(_side_by_side, pieces, function, *shared, least=2))
    return [result for start, _ in pieces for result in found[start]]


def _side_by_side(piece: tuple[int, Sequence[Any]], function: Callable[..., T], *shared: Any) -> tuple[int, list[T]]:
    return piece[0], side_by_side(lambda item: function(item, *shared), piece[1])
