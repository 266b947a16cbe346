"""Ctrl-C during training is an interrupt, whatever Ray Train's handler makes of it."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from trace_ray.realign.interrupt import own_interrupt

HANDLER = signal.getsignal(signal.SIGINT)


def interrupted(ends: BaseException | None) -> None:
    """As Ray Train does: a handler of its own, which stays; the signal; and then some end."""
    heard: list[Any] = []
    with own_interrupt():
        signal.signal(signal.SIGINT, lambda *about: heard.append(about))
        os.kill(os.getpid(), signal.SIGINT)
        assert heard
        if ends is not None:
            raise ends


@pytest.mark.parametrize(
    "ends", [SystemExit(0), RuntimeError("the controller died"), None], ids=["exit", "error", "none"]
)
def test_whatever_the_handler_makes_of_it_it_is_an_interrupt(ends: BaseException | None) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(ends)
    assert signal.getsignal(signal.SIGINT) is HANDLER
    assert signal.set_wakeup_fd(-1) == -1


def test_without_a_signal_an_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="broken"), own_interrupt():
        raise RuntimeError("broken")
    with own_interrupt():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is HANDLER
