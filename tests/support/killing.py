"""A command whose first process is killed, and only it, at a place that it has reached."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence


def kill_when(command: Sequence[str], reached: Callable[[], bool], seconds: float) -> None:
    """Starts the command and kills it as soon as ``reached`` holds.

    Raises: AssertionError where it ends before, or has not come so far after ``seconds``.
    """
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + seconds
    while not reached():
        assert driver.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
