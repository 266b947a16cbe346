"""What a judge's two probabilities make of a pair: its category."""

from __future__ import annotations

from typing import Any

import numpy as np

from trace_ray.pairs import Category

Floats = np.ndarray[Any, np.dtype[np.float64]]
_NAMES = np.array([category.value for category in Category], dtype=object)
_CODES = {category: np.int64(i) for i, category in enumerate(Category)}


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


def categories_N(p_chosen_N: Floats, p_rejected_N: Floats, threshold: float, band: float) -> Any:
    """Returns ``categorise`` of ``complies`` for N pairs at once, as an object array of names; nan = no probability."""
    known_chosen, known_rejected = (_known(p, threshold, band) for p in (p_chosen_N, p_rejected_N))
    good_chosen, good_rejected = known_chosen & (p_chosen_N < threshold), known_rejected & (p_rejected_N < threshold)
    codes = np.where(good_rejected, _CODES[Category.INVERT], _CODES[Category.PUNISH])
    codes = np.where(known_chosen & known_rejected, codes, _CODES[Category.ABSTAIN])
    return _NAMES[np.where(good_chosen, _CODES[Category.RETAIN], codes)]


def _known(p_N: Floats, threshold: float, band: float) -> Any:
    return ~np.isnan(p_N) & ~(np.abs(p_N - threshold) < band)
