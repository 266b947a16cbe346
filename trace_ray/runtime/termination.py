"""SIGTERM, as of a pod that goes or a job that is stopped: an interrupt, which keeps what is finished and says how to go on."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_heard: list[int] = []


def hear_termination() -> None:
    """Makes SIGTERM an interrupt of the main thread, from which alone it can be called; elsewhere it does nothing.

    To be called once Ray is connected: its own handler ends the process with a trace of C++ and exit code 134.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def terminated() -> bool:
    """Returns whether this process was asked to end by SIGTERM."""
    return bool(_heard)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _heard.append(number)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a script's background job
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGINT)  # whoever handles Ctrl-C by now, Ray Train's controller say, handles it
