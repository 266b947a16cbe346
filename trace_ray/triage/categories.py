"""What a judge's two probabilities make of a pair, many at once: ``pairs.categorise`` as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from trace_ray.pairs import Category

Floats = np.ndarray[Any, np.dtype[np.float64]]
_NAMES = np.array([category.value for category in Category], dtype=object)
_CODES = {category: np.int64(i) for i, category in enumerate(Category)}


def categories_N(p_chosen_N: Floats, p_rejected_N: Floats, threshold: float, band: float) -> Any:
    """Returns ``categorise`` of ``complies`` for N pairs at once, as an object array of names; nan = no probability."""
    known_chosen, known_rejected = (_known(p, threshold, band) for p in (p_chosen_N, p_rejected_N))
    good_chosen, good_rejected = known_chosen & (p_chosen_N < threshold), known_rejected & (p_rejected_N < threshold)
    codes = np.where(good_rejected, _CODES[Category.INVERT], _CODES[Category.PUNISH])
    codes = np.where(known_chosen & known_rejected, codes, _CODES[Category.ABSTAIN])
    return _NAMES[np.where(good_chosen, _CODES[Category.RETAIN], codes)]


def _known(p_N: Floats, threshold: float, band: float) -> Any:
    return ~np.isnan(p_N) & ~(np.abs(p_N - threshold) < band)
