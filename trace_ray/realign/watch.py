"""A training's progress as its driver shows it. Ray Train's controller tells nothing before the end: metrics.jsonl does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
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
    watcher = threading.Thread(target=watch, args=(run, stop, _written(run)), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def watch(run: Run, stop: threading.Event, before: Sequence[dict[str, Any]]) -> None:
    """Shows the steps that the workers have written, until ``stop``.

    Args:
        before: those of an earlier process, whose alarms it has told.
    """
    with Meter("realign", 0, "steps") as meter:
        meter.skip(before[-1]["step"] if before else 0)
        took, told = 0.0, len(raised(before))
        while not stop.wait(pause(_POLL_SECONDS, took)):
            started = time.monotonic()
            rows = _written(run)
            took = time.monotonic() - started
            told = _tell(rows, told)
            if rows:
                meter.total = rows[-1]["steps"]
                meter.advance(rows[-1]["step"] - meter.done, live_note(rows[-1]))
        _tell(_written(run), told)  # the last steps' come with the end


def _tell(rows: list[dict[str, Any]], told: int) -> int:
    """Says the alarms after the first ``told``; returns how many are told by now."""
    found = raised(rows)
    for alarm in found[told:]:
        warn(f"realign, step {alarm.step}: {alarm.text}")
    return len(found) if rows else told


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
