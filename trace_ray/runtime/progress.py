"""One live line for long work: done, total, rate and ETA; a plain line every few seconds where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True)
SHARE = 0.02
"""Of the time, what telling of work may take at most."""
_PLAIN_SECONDS = 20.0


def warn(text: str) -> None:
    """Says on the terminal what a user would not expect, with --quiet too; a file's name is shown as it is."""
    quiet, CONSOLE.quiet = CONSOLE.quiet, False
    try:
        CONSOLE.print(text, style="yellow", markup=False, emoji=False, highlight=False, soft_wrap=True)
    finally:
        CONSOLE.quiet = quiet


_at: list[Callable[[], str]] = []
"""What this process is at, the innermost last, each telling how far it is."""


_done = [0]


def done() -> int:
    """Returns a count that grows with whatever this process gets done: rows, steps, stages. For any thread."""
    return _done[0]


def doing() -> str:
    """Returns what this process is at and how far, in words; empty where it has begun nothing. For any thread."""
    return next((tell() for tell in _at[-1:]), "")


_part: list[str] = []


def doing_in_all() -> str:
    """As ``doing``, with the part of the run that it belongs to before it."""
    return ": ".join([*_part, *filter(None, [doing()])])


@contextmanager
def within(part: str) -> Iterator[None]:
    """While open, what is done belongs to a part of the run, such as ``round 2``."""
    _part.append(part)
    try:
        yield
    finally:
        _part.remove(part)


@contextmanager
def working(what: str) -> Iterator[None]:
    """While open, ``doing`` says ``what``, or what a meter inside says."""
    _done[0] += 1
    with _told(lambda: what):
        yield


@contextmanager
def _told(tell: Callable[[], str]) -> Iterator[None]:
    _at.append(tell)
    try:
        yield
    finally:
        _at.remove(tell)


def pause(least: float, took: float) -> float:
    """Returns the seconds to wait before doing again what took ``took`` seconds: ``least``, and what keeps it to SHARE.

    >>> pause(5.0, 0.01), pause(5.0, 1.0)
    (5.0, 50.0)
    """
    return max(least, took / SHARE)


class Meter:
    """Counts work done.

    Args:
        label: what is being done; total: how much, in ``unit``; 0 = not known.
    """

    def __init__(self, label: str, total: int, unit: str = "rows") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = 0, ""
        self.start = self._printed = time.monotonic()
        self._first = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._live = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=CONSOLE, transient=True)
        self._task = self._live.add_task(label, total=total or None, note=unit)
        self._telling = _told(lambda: f"{self.label}: {self.line()}")

    def __enter__(self) -> Self:
        self._telling.__enter__()
        if CONSOLE.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._telling.__exit__(None, None, None)
        if CONSOLE.is_terminal:
            self._live.stop()

    def skip(self, already: int) -> None:
        """Counts work that an earlier process did; it says nothing about the rate."""
        self._first = already
        self.advance(already)

    def advance(self, amount: int, note: str = "") -> None:
        self.done += amount
        _done[0] += max(0, amount)
        self.note = note or self.note
        note = f"{self.unit}, {self.rate():.1f}/s {self.note}"
        self._live.update(self._task, total=self.total or None, completed=self.done, note=note)
        if not CONSOLE.is_terminal and not CONSOLE.quiet and time.monotonic() - self._printed > _PLAIN_SECONDS:
            self._printed = time.monotonic()
            sys.stderr.write(f"{self.label}: {self.line()}\n")
            sys.stderr.flush()

    def rate(self) -> float:
        """Returns what this process did a second, in ``unit``."""
        return (self.done - self._first) / max(1e-9, time.monotonic() - self.start)

    def line(self) -> str:
        """Returns the state in words: ``120/300 rows, 4.1/s, ETA 44 s``."""
        rate = self.rate()
        eta = f", ETA {(self.total - self.done) / rate:.0f} s" if self.total and rate > 0 else ""
        total = f"/{self.total}" if self.total else ""
        speed = f", {rate:.1f}/s{eta}" if rate > 0 else ""
        return f"{self.done}{total} {self.unit}{speed}{' ' if self.note else ''}{self.note}"
