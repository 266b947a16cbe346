"""What a training has written of its steps so far: realign/metrics.jsonl, one JSON object a step."""

from __future__ import annotations

import json
from typing import Any

from trace_ray.errors import UserError
from trace_ray.runs.artifacts import TRAINING_METRICS, Run


def training_figures(run: Run) -> list[dict[str, Any]]:
    """Returns the figures of each step, in order; none where no step was written. A last line without its end is none yet.

    Raises: UserError, naming the line, where another is damaged.
    """
    place = run.realign.place / TRAINING_METRICS
    try:
        lines = place.read_bytes().decode("utf-8", "replace").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [_step(line, f"{place.uri}:{number}") for number, line in enumerate(lines, 1)]


def _step(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not {"step", "steps"} <= row.keys():
        raise UserError(where, line[:40], "no figures of a step: the file is damaged; delete it, or restore it")
    return row
