"""What is needed next, made by a thread while what was made before is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

THREAD = "trace-ray-ahead"
"""How its name begins."""
_END = object()


@contextmanager
def made_ahead(items: Iterator[T], prepare: Callable[[], None] | None = None) -> Iterator[Iterator[T]]:
    """Gives the items in order, each made while its forerunner is in use: one is made ahead, never more.

    An error met in making one is raised, as it is, where that item is asked for. The thread has ended when the context has,
    whatever is left unmade.

    Args:
        items: iterated by the thread alone; prepare: called in the thread before.
    """
    with ThreadPoolExecutor(1, THREAD, prepare or _nothing) as thread:
        yield _taken(items, thread)


def _taken(items: Iterator[T], thread: ThreadPoolExecutor) -> Iterator[T]:
    coming = thread.submit(next, items, _END)
    while (item := coming.result()) is not _END:
        coming = thread.submit(next, items, _END)
        yield item  # type: ignore[misc]  # next() may also give the end's mark, which it is not


def _nothing() -> None:
    pass
