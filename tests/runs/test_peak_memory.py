"""Peak memory of a process tree."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from trace_ray.config import StorageConfig
from trace_ray.runs.memory import PeakMemory, record_peak, recorded_peak, tree_bytes
from trace_ray.storage.location import locate

HELD = 200 * 2**20


def test_a_child_counts_and_memory_given_back_is_remembered() -> None:
    before = tree_bytes()
    code = f"x = bytearray({HELD}); x[::4096] = b'x' * len(x[::4096]); print('ready', flush=True); input()"
    with (
        PeakMemory() as memory,
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        waited_until = time.monotonic() + 30
        while memory.peak_bytes < before + HELD and time.monotonic() < waited_until:
            np.zeros(1).sum()  # the samples are another thread's
        child.communicate("\n")
    assert memory.peak_bytes >= before + HELD
    assert tree_bytes() < before + HELD // 2


def test_a_resumed_stage_keeps_the_larger_peak(tmp_path: Path) -> None:
    folder = locate(str(tmp_path), StorageConfig())
    assert recorded_peak(folder) is None
    for value in (5, 9, 7):
        record_peak(folder, value)
    assert recorded_peak(folder) == 9
