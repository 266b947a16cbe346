"""What a process and those that it started hold and use while something runs."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import psutil


class Watch(threading.Thread):
    """Samples this process (the driver) and the largest of its Ray workers, twice a second.

    samples: (seconds, driver's MB, driver's open files, largest worker's MB); cpu_seconds: the driver's own, without what
    the looking takes.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, int, float]] = []
        self.stop = threading.Event()
        self.cpu_seconds = self.seconds = self.looking = 0.0

    def __enter__(self) -> Self:
        self.started, self._cpu = time.monotonic(), _cpu_seconds()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds, used = time.monotonic() - self.started, _cpu_seconds() - self._cpu
        self.stop.set()
        self.join()
        self.cpu_seconds = used - self.looking

    def run(self) -> None:
        me = psutil.Process()
        while not self.stop.wait(0.5):
            workers = [0.0]
            for child in me.children(recursive=True):
                try:
                    if child.name().startswith("ray::"):
                        workers.append(child.memory_info().rss / 1e6)
                except psutil.Error:  # it ended meanwhile
                    continue
            now = time.monotonic() - self.started
            self.samples.append((now, me.memory_info().rss / 1e6, me.num_fds(), max(workers)))
            self.looking = time.thread_time()

    def figures(self) -> dict[str, float]:
        """Returns the driver's memory and open files in the first and last tenth of the time, and what was most."""
        working = [s for s in self.samples if s[0] > 15] or self.samples  # after imports and Ray's start
        tenth = max(1, len(working) // 10)
        first, last = working[:tenth], working[-tenth:]
        return {
            "seconds": round(self.seconds, 1),
            "driver_cpu_seconds": round(self.cpu_seconds, 1),
            "driver_mb_first_tenth": round(sum(s[1] for s in first) / tenth),
            "driver_mb_last_tenth": round(sum(s[1] for s in last) / tenth),
            "driver_mb_most": round(max(s[1] for s in working)),
            "worker_mb_most": round(max(s[3] for s in working)),
            "open_files_first_tenth": max(s[2] for s in first),
            "open_files_last_tenth": max(s[2] for s in last),
        }


def _cpu_seconds() -> float:
    own = psutil.Process().cpu_times()
    return float(own.user + own.system)
