"""Ctrl-C while Ray Train trains: its own handler speaks to its controller and ends the process with whatever comes of it."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_interrupt() -> Iterator[None]:
    """Puts the handler of SIGINT back that stood before, and turns the end of a body that it met into KeyboardInterrupt.

    Ray Train sets a handler of its own and leaves it behind. A wakeup descriptor hears the signal whoever handles it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    ear, mouth = socket.socketpair()
    with ear, mouth:
        ear.setblocking(False)
        mouth.setblocking(False)
        heard_before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        try:
            yield
        except BaseException as error:
            if _interrupted(ear):
                raise KeyboardInterrupt from error
            raise
        finally:
            signal.set_wakeup_fd(heard_before)
            signal.signal(signal.SIGINT, before)
        if _interrupted(ear):
            raise KeyboardInterrupt


def _interrupted(ear: socket.socket) -> bool:
    try:
        return signal.SIGINT in ear.recv(1 << 16)
    except BlockingIOError:
        return False
