"""Plain Ray tasks, whose results come as they are done; Ray repeats those of a lost worker or node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

Part = TypeVar("Part")

_LEAST_IN_FLIGHT = 16
"""What waits for a CPU is what an autoscaler sees."""
GROUPS = 64
"""Into which parts are put at most, where each group's task hands the driver what all of its parts come to."""


def as_done(submit: Callable[[Any], Any], items: Iterable[Any], num_cpus: float = 1) -> Iterable[Any]:
    """Yields the results of Ray tasks, one for each item, as each is done.

    Twice as many are in flight as the cluster runs at once by then: nodes may join at any time, and a wait looks at all.
    """
    import ray

    left, pending = iter(items), list[Any]()
    while True:
        most = max(_LEAST_IN_FLIGHT, int(2 * ray.cluster_resources().get("CPU", 1) / num_cpus))
        pending += [submit(item) for item in islice(left, max(0, most - len(pending)))]
        if not pending:
            return
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
    yield from as_done(lambda item: run.remote(item, *kept), first, num_cpus)


def groups(parts: Sequence[Part]) -> list[Sequence[Part]]:
    """Returns the parts in at most GROUPS groups of like size."""
    count = min(GROUPS, len(parts))
    return [parts[i::count] for i in range(count)]
