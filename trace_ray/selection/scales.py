"""The end of a selection: the chosen adapter at smaller scales, measured as candidates are, and the best of them kept.

A smaller scale takes back a part of all that was trained, drift and gain alike: W + scale (W' - W). Its measurements lie in a
selection of their own, RUN/realign/selection/scales/selection/, in which a candidate's "step" is its scale in percent: 0 is
the model before training, 100 the adapter as it was trained, both measured already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trace_ray.config import SelectConfig
from trace_ray.realign.candidates import (
    CANDIDATES,
    candidate_name,
    candidate_place,
    drop_others,
    write_scaled,
)
from trace_ray.realign.checkpoint import ADAPTER
from trace_ray.runs.artifacts import Run
from trace_ray.runs.nested import NestedRun
from trace_ray.runs.validations import SELECTION, Validation, validations, write_validation
from trace_ray.selection.choose import Choice, choose

SCALES = "scales"
"""In realign/selection/."""
WHOLE = 100


@dataclass(frozen=True)
class Kept:
    """What a selection keeps in the end.

    Args:
        step: of the candidate, 0 = the model before training; percent: its adapter's scale.
        folder: of the adapter, below realign/.
        measured: {percent: figures} of the scales that were tried, 0 and 100 among them; empty where none was.
    """

    step: int
    percent: int
    folder: str
    measured: dict[int, Validation]

    def facts(self) -> dict[str, Any]:
        """Returns what a manifest says of the scales; nothing where none was tried."""
        if not self.measured:
            return {}
        shares = {f"{percent / WHOLE:g}": figures.tpa["all"] for percent, figures in self.measured.items() if percent}
        return {"scale": self.percent / WHOLE, "dev_tpa_by_scale": shares}


def scaled_run(run: Run) -> Run:
    """Returns a run whose selection is that of one adapter's scales."""
    return NestedRun(run.place, "realign", run.realign.place / SELECTION / SCALES)


def keep(run: Run, select: SelectConfig, choice: Choice, measure: Callable[[Run], None]) -> Kept:
    """Returns what is kept: the choice, or what its adapter is at the best of ``select.scales``, of equals the smallest.

    Where no candidate is kept, as all that gain are beyond a budget, the one that gains most is tried. Everything is found
    again by a run that goes on.

    Args:
        measure: measures the candidates that wait in a run.
    """
    step, percents = to_scale(validations(run), choice), tried(select)
    if not percents or not step:
        return Kept(choice.step, WHOLE, _folder(choice.step), {})
    scaled = scaled_run(run)
    known = {figures.step: figures for figures in validations(run)}
    for percent, figures in ((0, known[0]), (WHOLE, known[step])):
        write_validation(scaled, candidate_name(percent), replace(figures, step=percent))
    for percent in percents:
        write_scaled(scaled, candidate_place(run, step) / ADAPTER, percent)
    measure(scaled)
    found = validations(scaled)
    percent = choose(found, replace(select, patience=0)).step
    drop_others(scaled, percent)
    folder = _folder(step if percent else 0)
    if percent not in (0, WHOLE):
        folder = f"{SELECTION}/{SCALES}/{_folder(percent)}"
    return Kept(step if percent else 0, percent or WHOLE, folder, {figures.step: figures for figures in found})


def tried(select: SelectConfig) -> list[int]:
    """Returns the scales to measure, in percent and in order; the whole one is measured already.

    >>> tried(SelectConfig(scales=(1.0, 0.5, 0.3)))
    [30, 50]
    """
    return sorted({round(WHOLE * scale) for scale in select.scales} - {WHOLE})


def to_scale(measured: Sequence[Validation], choice: Choice) -> int:
    """Returns the step whose adapter is scaled; 0 = none.

    Args:
        measured: the base first, then by step; what came after patience ran out does not count.
    """
    if choice.step:
        return choice.step
    counted = [figures for figures in measured if choice.stopped is None or figures.step <= choice.stopped]
    return max(counted, key=lambda figures: (figures.tpa["all"], -figures.step)).step


def _folder(step: int) -> str:
    return f"{SELECTION}/{CANDIDATES}/{candidate_name(step)}"
