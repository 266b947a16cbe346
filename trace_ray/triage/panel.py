"""One verdict of several judges: all must agree, or most of them, or each counts for what it is worth. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trace_ray.triage.categories import Floats, categories_N
from trace_ray.triage.dawid_skene import COMPLIES, SILENT, VIOLATES, Skills, Votes

AGREE, MAJORITY, DAWID_SKENE = "agree", "majority", "dawid_skene"


@dataclass(frozen=True)
class Panel:
    """How the judges' verdicts become one.

    Args:
        rule: ``triage.combine``; skills: of the judges in their order, with dawid_skene.
    """

    rule: str = AGREE
    skills: Skills | None = None

    @property
    def judges(self) -> int:
        """How many the skills are of, 1 without any."""
        return len(self.skills.sensitivity) if self.skills is not None else 1

    def p_violates(self, votes_NJ: Votes, asked_NJ: Any) -> Floats:
        """Returns the panel's P(violates) of N responses; nan where it is undecided.

        Args:
            asked_NJ: whether a judge was asked: with majority, whoever was asked and is silent stands against both.
        """
        if self.rule == DAWID_SKENE:
            assert self.skills is not None, "fitted before anything is decided by it"
            return self.skills.p_violates(votes_NJ)
        return majority(votes_NJ, asked_NJ)

    def categories(self, p_chosen_N: Floats, p_rejected_N: Floats, threshold: float, band: float) -> Any:
        """Returns the names of the categories of N pairs, from the panel's P(violates)."""
        if self.rule == MAJORITY:  # it says yes, no or nothing, whatever the threshold
            threshold, band = 0.5, 0.0
        return categories_N(p_chosen_N, p_rejected_N, threshold, band)


def votes_N(p_N: Floats, threshold: float, band_N: Floats | float) -> Votes:
    """Returns a judge's votes on N responses from its P(violates), nan = none; within the band it is silent."""
    told = np.where(p_N >= threshold, VIOLATES, COMPLIES)
    return np.where(np.isnan(p_N) | (np.abs(p_N - threshold) < band_N), SILENT, told).astype(np.int8)


def majority(votes_NJ: Votes, asked_NJ: Any) -> Floats:
    """Returns 1 where more than half of the judges that were asked say that a response violates, 0 that it complies, nan else.

    >>> votes = np.array([[1, 1, 0], [1, -1, 0], [0, -1, 0], [1, -1, -1]], dtype=np.int8)
    >>> majority(votes, np.array([[True, True, True]] * 4)).tolist()
    [1.0, nan, 0.0, nan]
    """
    asked_N = asked_NJ.sum(axis=1)
    yes_N, no_N = ((votes_NJ == vote).sum(axis=1) for vote in (VIOLATES, COMPLIES))
    return np.where(2 * yes_N > asked_N, 1.0, np.where(2 * no_N > asked_N, 0.0, np.nan))
