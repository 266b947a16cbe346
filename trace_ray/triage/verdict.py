"""From two probabilities to a category."""

from __future__ import annotations

import pyarrow as pa

from trace_ray.pairs import Category


def complies(p_violates: float | None, threshold: float, band: float) -> bool | None:
    """Returns whether a response complies; None where it cannot be told.

    Args:
        p_violates: P(violates) in [0, 1], None where the judge gave none.
        threshold: it violates from here on.
        band: half-width around the threshold in which nothing is decided.
    """
    if p_violates is None or abs(p_violates - threshold) < band:
        return None
    return p_violates < threshold


def categorise(chosen_complies: bool | None, rejected_complies: bool | None) -> Category:
    """Returns the category of a pair.

    Source: the paper's Type I and Type II conflicts; ABSTAIN, where a needed bit is unknown, is ours. A chosen
    response that complies is RETAIN whatever the other one is.
    """
    if chosen_complies:
        return Category.RETAIN
    if chosen_complies is None or rejected_complies is None:
        return Category.ABSTAIN
    return Category.INVERT if rejected_complies else Category.PUNISH


def categories(p_chosen: pa.Array, p_rejected: pa.Array, threshold: float, band: float) -> list[str]:
    """Returns the category of each pair of a block."""
    return [
        categorise(complies(chosen, threshold, band), complies(rejected, threshold, band)).value
        for chosen, rejected in zip(p_chosen.to_pylist(), p_rejected.to_pylist(), strict=True)
    ]
