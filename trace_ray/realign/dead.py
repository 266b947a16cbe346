"""A training that is dead and does not say so: every figure is finite, and no step changes anything any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

CLIPPED = 1e-3
"""A gradient scaled down to less than this share of itself is no measured step but a blow-up held by the collar."""
SAME = 1e-5
"""Losses of different pairs this near to one another, relatively, are those of a model that has not moved."""

Row = Mapping[str, Any]


def cause_of_death(
    rows: Sequence[Row], weighed: Sequence[str], steps: int, *, epsilon: float, max_grad_norm: float, over: bool
) -> str:
    """Returns why the last ``steps`` steps trained nothing, in words; empty where they did.

    A gradient of exactly 0 and losses that stand still count among steps with weighed pairs only: the anchors' KL to a
    model that is still the reference has no gradient, and need not have one. At its start a training may stand still, as
    bfloat16 weights do under a small rate, until its float32 masters have gone far enough; not from its start to its end.

    Args:
        rows: the figures of each step so far.
        weighed: the categories whose pairs carry weights.
        epsilon: of ``realign.epsilon``; where it is set, a gradient that has vanished is the end that was asked for.
        max_grad_norm: what gradients are scaled down to; 0 = never.
        over: whether the last step is made.
    """
    last = rows[-steps:]
    if len(last) == steps and max_grad_norm and all(row["grad_norm"] > max_grad_norm / CLIPPED for row in last):
        least = min(row["grad_norm"] for row in last)
        return (
            f"each gradient was clipped to less than a thousandth (norm {least:.3g} or more, limit {max_grad_norm:g})"
        )
    if not _weighs(rows[-1], weighed):
        return ""
    weighing = list(islice((row for row in reversed(rows) if _weighs(row, weighed)), steps))
    if len(weighing) < steps:
        return ""
    if epsilon == 0 and all(row["grad_norm"] == 0 for row in weighing):
        return "the gradient was exactly 0"
    if not _stands(weighing, weighed):
        return ""
    return (
        "the loss stood still" if over or not _stands([row for row in rows if _weighs(row, weighed)], weighed) else ""
    )


def _weighs(row: Row, weighed: Sequence[str]) -> bool:
    return any(row.get(f"{name}/weight", 0) > 0 for name in weighed)


def _stands(rows: Sequence[Row], weighed: Sequence[str]) -> bool:
    for name in weighed:
        values = [row[f"{name}/loss"] for row in rows if f"{name}/loss" in row]
        if values and max(values) - min(values) > SAME * max(abs(value) for value in values):
            return False
    return True
