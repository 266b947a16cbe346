"""Requests to object stores and their bytes: counted in each process, told in tallies, summed by step in the manifest."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

KINDS = ("get", "put", "list", "head", "delete")
"""Of requests; a multipart upload's parts, its beginning and its end are puts. Beside them: bytes_in and bytes_out."""

_counts: Counter[str] = Counter()
_turn = threading.Lock()


def kind_of(method: str, url: str) -> str:
    """Returns a request's kind.

    >>> kind_of("GET", "https://s3/bucket?list-type=2&prefix=a"), kind_of("POST", "https://s3/bucket/x?uploads")
    ('list', 'put')
    """
    if method == "GET":
        return "list" if "list-type=" in url or "?uploads" in url else "get"
    if method == "POST":
        return "delete" if "?delete" in url else "put"
    return method.lower()


def count(name: str, amount: int = 1) -> None:
    """Adds to this process' counts. For any thread."""
    with _turn:
        _counts[name] += amount


def take() -> dict[str, int]:
    """Returns what this process counted since the last time."""
    with _turn:
        found = {name: amount for name, amount in _counts.items() if amount}
        _counts.clear()
    return found


def counted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, int]]:
    """Returns what the function returns, and what this process counted since the last time: a task tells both."""
    return function(*arguments), take()


class Traffic:
    """Requests and bytes by step, over all processes of a stage."""

    def __init__(self) -> None:
        self.steps: dict[str, Counter[str]] = {}

    @classmethod
    def begun(cls) -> Traffic:
        """Returns one without requests; what this process counted before is not its stage's."""
        take()
        return cls()

    def add(self, step: str, told: Mapping[str, int]) -> None:
        """Adds what a worker told in a tally."""
        self.steps.setdefault(step, Counter()).update(told)

    def own(self, step: str) -> None:
        """Adds what this process counted since the last time."""
        self.add(step, take())

    def told(self) -> dict[str, dict[str, int]]:
        """Returns {step: {kind or bytes: amount}}; nothing where no object store was asked."""
        return {step: dict(counts) for step, counts in self.steps.items() if counts}
