"""Peak memory of a process tree."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from trace_ray.config import StorageConfig
from trace_ray.runs.memory import PeakMemory, TreeMemory, record_peak, recorded_peak
from trace_ray.storage.location import locate

HELD = 200 * 2**20


def test_a_child_counts_and_memory_given_back_is_remembered() -> None:
    before = TreeMemory()()
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
    assert TreeMemory()() < before + HELD // 2


def test_a_resumed_stage_keeps_the_larger_peak(tmp_path: Path) -> None:
    folder = locate(str(tmp_path), StorageConfig())
    assert recorded_peak(folder) is None
    for value in (5, 9, 7):
        record_peak(folder, value)
    assert recorded_peak(folder) == 9


def test_only_who_has_grown_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    full = psutil.Process.memory_full_info

    def counted(process: psutil.Process) -> Any:
        asked.append(process.pid)
        return full(process)

    monkeypatch.setattr(psutil.Process, "memory_full_info", counted)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as child:
        read = TreeMemory()
        first = read()
        assert child.pid in asked
        asked.clear()
        held = np.ones(HELD // 8)
        assert read() >= first + held.nbytes * 0.9
        assert os.getpid() in asked
        assert child.pid not in asked, "it waits for a line, and holds what it held"
        child.communicate("\n")
