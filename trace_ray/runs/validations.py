"""What a selection has measured of its candidates: realign/selection/validations/, one JSON file a candidate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trace_ray.runs.artifacts import Run, read_json
from trace_ray.storage.location import Location

SELECTION, VALIDATIONS = "selection", "validations"
"""In realign/; in that folder."""
CURVE = "validations.jsonl"
"""In realign/: the candidates' figures in one file, a line a candidate (``selection.told``)."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """One candidate's figures.

    Args:
        step: after which it was taken; 0 = the model before training.
        adapter: hash of what was measured, empty for step 0.
        tpa: percent of the answers to dev prompts that comply, by category and in ``all``; prompts: how many were asked.
        drift: KL to the base on RETAIN answers, nats a token.
        seconds: that measuring took; tokens: prompts' and answers', with those that judges count.
    """

    step: int
    adapter: str
    tpa: Mapping[str, float]
    prompts: Mapping[str, int]
    drift: float
    seconds: float
    tokens: int

    def figures(self) -> dict[str, float]:
        """Returns what curves and trackers show, by name.

        >>> Validation(step=3, adapter="", tpa={"all": 50.0}, prompts={"all": 2}, drift=0.1, seconds=1, tokens=9).figures()
        {'dev_tpa/all': 50.0, 'dev_drift': 0.1}
        """
        return {f"dev_tpa/{group}": share for group, share in self.tpa.items()} | {"dev_drift": self.drift}


def with_validations(rows: Sequence[Mapping[str, Any]], measured: Sequence[Validation]) -> list[dict[str, Any]]:
    """Returns a training's figures step by step with those of the candidates among them, which may come before or after."""
    known = {validation.step: validation.figures() for validation in measured}
    steps = {row["step"]: dict(row) for row in rows}
    return [{"step": step} | steps.get(step, {}) | known.get(step, {}) for step in sorted(steps.keys() | known.keys())]


def validations_place(run: Run) -> Location:
    return run.realign.place / SELECTION / VALIDATIONS


def validations(run: Run) -> list[Validation]:
    """Returns every candidate's figures so far, in the order of their steps; none where nothing is selected."""
    found = [Validation(**read_json(file)) for file in validations_place(run).files(".json")]
    return sorted(found, key=lambda validation: validation.step)


def write_validation(run: Run, name: str, validation: Validation) -> None:
    """Writes a candidate's figures under its name."""
    (validations_place(run) / f"{name}.json").write_text(json.dumps(asdict(validation), indent=1))
