"""SIGTERM is an interrupt of the main thread, with Ctrl-C handled as it was or ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from trace_ray.runtime.interrupts import heard

PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, {handler})
from trace_ray.cli.output import interruption
from trace_ray.runtime.interrupts import hear_termination
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


@pytest.mark.parametrize(("outer", "inner", "ends"), [(1, 0, True), (0, 1, True), (0, 0, False)])
def test_where_ctrl_c_is_ignored_those_of_the_process_own_are_heard(outer: int, inner: int, *, ends: bool) -> None:
    """As a lost lock's around a watchdog's."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupted = False
    try:
        with heard(lambda: outer), heard(lambda: inner):
            os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        interrupted = True
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN
    assert interrupted == ends
