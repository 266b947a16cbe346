"""Krippendorff's alpha for nominal ratings, missing ones allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


def krippendorff_alpha(units: Iterable[Mapping[str, str]]) -> float | None:
    """Returns alpha in (-1, 1]: 1 is full agreement, 0 what chance would give; None where it is not defined.

    It is not defined where no unit has two ratings, or all paired ratings are one and the same value.

    Args:
        units: for each unit {rater: value}; a rater without a value is left out. Units of one rating tell nothing.
    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C, by the coincidence matrix: each
        ordered pair of ratings within a unit of m ratings counts 1 / (m - 1).
    """
    totals: Counter[str] = Counter()
    disagreements = 0.0
    for unit in units:
        counts = Counter(unit.values())
        ratings = counts.total()
        if ratings < 2:
            continue
        totals.update(counts)
        agreeing = sum(n * (n - 1) for n in counts.values())
        disagreements += (ratings * (ratings - 1) - agreeing) / (ratings - 1)
    every = totals.total()
    expected = every**2 - sum(n**2 for n in totals.values())
    if not expected:
        return None
    return 1.0 - (every - 1) * disagreements / expected
