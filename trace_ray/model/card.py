"""A card's memory as others leave it: whoever held it before may be gone for Ray and not yet for the driver."""

from __future__ import annotations

import os
import subprocess
import time

PATIENCE_S = 60.0
_PAUSE_S = 0.5


def wait_for_memory(share: float, patience_s: float = PATIENCE_S) -> bool:
    """Waits until every card that this process may use has this share of its memory free; returns whether it has.

    Without a card, or where nvidia-smi is not there or tells nothing, as of a slice of a card, nothing is waited for.
    """
    until = time.monotonic() + patience_s
    while (free := free_share()) is not None and free < share:
        if time.monotonic() >= until:
            return False
        time.sleep(_PAUSE_S)
    return True


def free_share() -> float | None:
    """Returns the share of memory that is free on the fullest card of this process; None where that is not known.

    By nvidia-smi: asking CUDA would make a context on each card, in a process that may only start others.
    """
    cards = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [] if cards is None else ["-i", cards]
    query = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits", *chosen]
    if cards == "":
        return None
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
        rows = [[float(number) for number in line.split(",")] for line in told.splitlines() if line.strip()]
        return min((free / total for free, total in rows), default=None)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
