"""Peak memory of a stage: this process and all its children, sampled."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psutil

from trace_ray.storage.location import Location

RESOURCES = "resources.json"
_SAMPLE_SECONDS = 0.5
_CHANGED = 2**20
"""Bytes by which a process' resident memory moves before its share of it is asked for again."""


class PeakMemory:
    """While open, samples the memory of the process tree; ``peak_bytes`` is the largest sum seen.

    Pages that processes share are counted once (proportional set size) where the system tells, so Ray's object store does
    not count once a worker. A local Ray's workers are children of this process; on a cluster only this node is seen.

    Args:
        every_s: between two samples; read: says how much is held.
    """

    def __init__(self, every_s: float = _SAMPLE_SECONDS, read: Callable[[], int] | None = None) -> None:
        self.peak_bytes = 0
        self._every_s, self._read = every_s, read or TreeMemory()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._read())

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.peak_bytes = max(self.peak_bytes, self._read())


class TreeMemory:
    """Called, it returns the memory that this process and its descendants hold; one that ends meanwhile counts 0.

    The system walks all of a process' pages to tell its proportional share: 0.4 s of a core for the thirty processes of a
    local Ray, each time. It is asked only of those whose resident memory, which costs 20 microseconds, has moved. So pages that
    a process shares with one that has come or gone since are counted as they were before that.
    """

    def __init__(self) -> None:
        self._known: dict[psutil.Process, tuple[int, int]] = {}

    def __call__(self) -> int:
        here = psutil.Process()
        self._known = {process: self._look(process) for process in (here, *here.children(recursive=True))}
        return sum(share for _, share in self._known.values())

    def _look(self, process: psutil.Process) -> tuple[int, int]:
        """Returns (resident bytes, bytes of the share) of when the share was asked for."""
        try:
            resident = int(process.memory_info().rss)
            known = self._known.get(process)
            if known and abs(resident - known[0]) < _CHANGED:
                return known
            full = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return 0, 0
        return resident, int(full.pss) if psutil.LINUX else int(full.uss)


def record_peak(folder: Location, peak_bytes: int) -> None:
    """Writes a stage's peak memory beside its artefact; of an interrupted and resumed stage the larger one is kept."""
    before = recorded_peak(folder) or 0
    (folder / RESOURCES).write_text(json.dumps({"peak_memory_bytes": max(before, peak_bytes)}))


def recorded_peak(folder: Location) -> int | None:
    """Returns a stage's peak memory in bytes, None where none was recorded, or none that can be read."""
    try:
        return int(json.loads((folder / RESOURCES).read_bytes())["peak_memory_bytes"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
