"""Reads side by side, or ahead of what is done with them: in an object store each waits for its requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 16

S = TypeVar("S")
T = TypeVar("T")


def side_by_side(read: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Returns what ``read`` returns of each item, in their order, AT_ONCE at a time."""
    if len(items) < 2:
        return [read(item) for item in items]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(read, items))


def read_ahead(read: Callable[[S], T], items: Sequence[S], most: int) -> Iterator[T]:
    """Yields what ``read`` returns of each item, in their order; up to ``most`` of those that follow are read meanwhile."""
    with ThreadPoolExecutor(most) as pool:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
