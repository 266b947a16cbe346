"""Interrupts that are no Ctrl-C: SIGTERM, as of a pod that goes or a stopped job, and what this process sends itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_terminations: list[int] = []
_ours: list[Callable[[], object]] = []


def hear_termination() -> None:
    """Makes SIGTERM an interrupt of the main thread, from which alone it can be called; elsewhere it does nothing.

    To be called once Ray is connected: its own handler ends the process with a trace of C++ and exit code 134.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def terminated() -> bool:
    """Returns whether this process was asked to end by SIGTERM."""
    return bool(_terminations)


@contextmanager
def heard(ours: Callable[[], object]) -> Iterator[None]:
    """Where interrupts are ignored, as in a script's background job, those are heard that come while ``ours()`` is true.

    One within another: each one's own are heard. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, _ours_alone)
    _ours.append(ours)
    try:
        yield
    finally:
        _ours.remove(ours)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _ours_alone(_number: int, _frame: FrameType | None) -> None:
    if any(ours() for ours in _ours):
        raise KeyboardInterrupt


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _terminations.append(number)
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, _ours_alone):
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGINT)  # whoever handles Ctrl-C by now, Ray Train's controller say, handles it
