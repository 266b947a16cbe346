"""SIGTERM is an interrupt of the main thread, with Ctrl-C handled as it was or ignored."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, {handler})
from trace_ray.cli.output import interruption
from trace_ray.runtime.termination import hear_termination
assert interruption() == (130, "interrupted")
hear_termination()
try:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
except KeyboardInterrupt:
    print(*interruption())
"""


@pytest.mark.parametrize("handler", ["signal.default_int_handler", "signal.SIG_IGN"])
def test_it_is_an_interrupt_that_is_told_apart(handler: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(handler=handler)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "143 terminated\n"
