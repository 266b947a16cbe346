"""A training's progress as its driver shows it. Ray Train's controller tells nothing before the end: metrics.jsonl does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trace_ray.errors import UserError
from trace_ray.runs.alarms import raised
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures
from trace_ray.runtime.progress import Meter, pause, warn

_POLL_SECONDS = 2.0


@contextmanager
def steps_shown(run: Run) -> Iterator[None]:
    """While open, the training's steps are shown."""
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(run, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def watch(run: Run, stop: threading.Event) -> None:
    """Shows the steps that the workers have written, until ``stop``."""
    with Meter("realign", 0, "steps") as meter:
        before = _written(run)
        meter.skip(before[-1]["step"] if before else 0)
        took, told = 0.0, len(raised(before))
        while not stop.wait(pause(_POLL_SECONDS, took)):
            started = time.monotonic()
            rows = _written(run)
            took = time.monotonic() - started
            for step, text in raised(rows)[told:]:
                warn(f"realign, step {step}: {text}")
            told = len(raised(rows)) if rows else told
            if rows:
                meter.total = rows[-1]["steps"]
                meter.advance(rows[-1]["step"] - meter.done, live_note(rows[-1]))


def _written(run: Run) -> list[dict[str, Any]]:
    """The figures so far; none where an earlier process left them damaged: the workers write them whole again."""
    try:
        return training_figures(run)
    except UserError:
        return []


def live_note(row: dict[str, Any]) -> str:
    """Returns one step's figures in a few words.

    >>> live_note({"step": 3, "INVERT/loss": 0.5, "grad_norm": 1.25, "tokens_per_s": 80.4})
    'INVERT 0.500, norm 1.25, 80 tokens/s'
    """
    losses = [f"{name.removesuffix('/loss')} {value:.3f}" for name, value in row.items() if name.endswith("/loss")]
    return ", ".join([*losses, f"norm {row['grad_norm']:.2f}", f"{row['tokens_per_s']:.0f} tokens/s"])
