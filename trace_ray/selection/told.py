"""What a selection tells while it goes on: realign/validations.jsonl for who reads files, and trackers, each candidate once.

The file is made anew of what is measured, so that it holds each candidate once whatever was killed; metrics.jsonl could not: a
resumed training cuts it to its checkpoint. A tracker takes figures of one run from one process at a time, and the training's
first worker tells it the steps meanwhile: the candidates are told under a name of their own, RUN/dev.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trace_ray.config import RealignConfig, SelectConfig
from trace_ray.realign.candidates import selection_place
from trace_ray.realign.trackers import DEV, tell_each
from trace_ray.runs.artifacts import Run
from trace_ray.runs.validations import CURVE, Validation, validations
from trace_ray.selection.choose import choose, over_budget

TOLD = "told.json"
"""In realign/selection/: {tracker: {step: hash of the adapter}} of what it has taken."""
Row = dict[str, Any]


def tell(run: Run, realign: RealignConfig) -> None:
    """Writes the curve of what is measured so far, and tells each tracker those candidates that it has not taken yet.

    A tracker that does not take one is told the same again the next time. One that is being told while this process is killed
    may be told these figures twice: what it took is noted after it took it.
    """
    measured = validations(run)
    rows = curve(measured, realign.select)
    (run.realign.place / CURVE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in realign.trackers:
        _tell_tracker(run, name, measured, [_numbers(row) for row in rows])


def curve(measured: Sequence[Validation], select: SelectConfig) -> list[Row]:
    """Returns a row a candidate: figures, whether it was better than all before it, and what it cost.

    The last row with ``dev_kept`` is that of the choice (``choose``); ``over_budget`` says why one may not be kept.

    Args:
        measured: the base first, then by step.
    """
    rows = []
    for number, candidate in enumerate(measured, 1):
        kept = choose(measured[:number], select).step == candidate.step
        row: Row = {"step": candidate.step, **candidate.figures(), "dev_kept": int(kept)}
        row |= {"over_budget": over_budget(candidate, measured[0], select), "prompts": dict(candidate.prompts)}
        rows.append(row | {"seconds": candidate.seconds, "tokens": candidate.tokens})
    return rows


def _numbers(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name.startswith(f"{DEV}_")}


def _tell_tracker(run: Run, name: str, measured: Sequence[Validation], figures: Sequence[dict[str, float]]) -> None:
    place = selection_place(run) / TOLD
    told: dict[str, dict[str, str]] = json.loads(place.read_text()) if place.exists() else {}
    taken = told.setdefault(name, {})
    adapters = {candidate.step: candidate.adapter for candidate in measured}
    left = [
        (step, numbers)
        for (step, adapter), numbers in zip(adapters.items(), figures, strict=True)
        if taken.get(str(step)) != adapter
    ]
    for step in tell_each(name, run.realign.place, run.place.uri, left, part=DEV) if left else ():
        taken[str(step)] = adapters[step]
        place.write_text(json.dumps(told))
