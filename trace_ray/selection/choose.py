"""Which candidate is kept: a pure function of what was measured, in the order of the steps. No clock has a part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trace_ray.config import SelectConfig
from trace_ray.runs.validations import Validation


@dataclass(frozen=True)
class Choice:
    """The candidate that is kept.

    Args:
        step: it was taken after; 0 = none is better than the model before training.
        stopped: the step at which patience ran out, whatever was trained and measured after it; None = it did not.
    """

    step: int
    stopped: int | None


def choose(measured: Sequence[Validation], select: SelectConfig) -> Choice:
    """Returns the choice among candidates, the base first, then by step.

    Kept is the highest ``tpa["all"]`` among those inside the budgets, of equals the earliest. Candidates after the one at
    which patience ran out do not count, so that it does not matter how far training was when they were measured.
    """
    base = kept = measured[0]
    waited = 0
    for candidate in measured[1:]:
        if not over_budget(candidate, base, select) and candidate.tpa["all"] > kept.tpa["all"]:
            kept, waited = candidate, 0
        else:
            waited += 1
        if select.patience and waited >= select.patience:
            return Choice(kept.step, candidate.step)
    return Choice(kept.step, None)


def over_budget(candidate: Validation, base: Validation, select: SelectConfig) -> str:
    """Returns which budget a candidate exceeds, in words; empty where it exceeds none.

    >>> base = Validation(step=0, adapter="", tpa={"all": 50.0, "RETAIN": 80.0}, prompts={}, drift=0, seconds=0, tokens=0)
    >>> one = Validation(step=9, adapter="", tpa={"all": 90.0, "RETAIN": 70.0}, prompts={}, drift=0, seconds=0, tokens=0)
    >>> over_budget(one, base, SelectConfig(max_category_loss=5.0))
    'RETAIN fell from 80.0 to 70.0 %'
    """
    if select.max_drift and not candidate.drift <= select.max_drift:
        return f"drift {candidate.drift:.3g} nats a token"
    for group, before in base.tpa.items():
        if group != "all" and candidate.tpa[group] < before - select.max_category_loss:
            return f"{group} fell from {before:.1f} to {candidate.tpa[group]:.1f} %"
    return ""
