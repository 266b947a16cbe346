"""How far each judge of a panel is to be believed, learned from their votes: Dawid and Skene's model, two classes. Pure.

A response violates with the prevalence; given the truth, judges vote independently, each with its own sensitivity and
specificity. Of N votes only the counts of their patterns matter, so a corpus of any size is a table of some dozens of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trace_ray.triage.categories import Floats

Votes = np.ndarray[Any, np.dtype[np.int8]]
VIOLATES, COMPLIES, SILENT = 1, 0, -1
"""A judge's vote on a response; silent: not asked, unreadable, or too near the threshold."""
LEAST_VOTES = 2
"""Votes below which a panel says nothing: one judge alone is no panel."""

Counts = Mapping[tuple[tuple[int, ...], int], int]
"""{(the J judges' votes, the label as a vote, SILENT where nobody labelled): responses}."""

_STEPS = 20_000
_STILL = 1e-10


@dataclass(frozen=True)
class Skills:
    """What votes say of a panel of J judges, all in (0, 1).

    Args:
        prevalence: share of the responses that violate.
        sensitivity: of each judge, share of the violating ones that it calls so; specificity: of the compliant ones.
    """

    prevalence: float
    sensitivity: list[float] = field(default_factory=list)
    specificity: list[float] = field(default_factory=list)

    def p_violates(self, votes_NJ: Votes) -> Floats:
        """Returns P(violates) of N responses given their votes; nan where fewer than two judges voted."""
        found = 1 / (1 + np.exp(-_log_odds(self, votes_NJ)))
        return np.where((votes_NJ != SILENT).sum(axis=1) >= LEAST_VOTES, found, np.nan)


def _log_odds(skills: Skills, votes_NJ: Votes) -> Floats:
    """Of violating to compliant; a silent judge adds nothing."""
    sensitivity_J, specificity_J = np.array(skills.sensitivity), np.array(skills.specificity)
    yes_J, no_J = np.log(sensitivity_J / (1 - specificity_J)), np.log((1 - sensitivity_J) / specificity_J)
    told_NJ = np.where(votes_NJ == VIOLATES, yes_J, np.where(votes_NJ == COMPLIES, no_J, 0.0))
    found: Floats = np.log(skills.prevalence / (1 - skills.prevalence)) + told_NJ.sum(axis=1)
    return found


def fit_skills(counts: Counts) -> Skills:
    """Returns the panel's most probable skills, by expectation and maximisation.

    Without labels three judges determine them, where they err independently and are better than chance together; two do
    not. A labelled response counts as what its label says. Each rate has one success and one failure beside what was
    counted, so that none is 0 or 1.

    Source: Dawid and Skene (1979), equations 2.3 to 2.5, begun as there with the share of the votes; the one success and
        failure are ours, a Beta(2, 2) prior.
    """
    votes_KJ = np.array([votes for votes, _ in counts], dtype=np.int8)
    label_K = np.array([label for _, label in counts], dtype=np.int8)
    number_K = np.array(list(counts.values()), dtype=float)
    yes_KJ, no_KJ = votes_KJ == VIOLATES, votes_KJ == COMPLIES
    told_K = (yes_KJ | no_KJ).sum(axis=1)
    q_K = np.where(told_K, yes_KJ.sum(axis=1) / np.maximum(told_K, 1), 0.5)
    skills = Skills(0.5)
    for _ in range(_STEPS):
        q_K = np.where(label_K == SILENT, q_K, label_K)
        bad_K, good_K = number_K * q_K, number_K * (1 - q_K)
        skills = Skills(
            float((bad_K.sum() + 1) / (number_K.sum() + 2)),
            ((bad_K @ yes_KJ + 1) / (bad_K @ (yes_KJ | no_KJ) + 2)).tolist(),
            ((good_K @ no_KJ + 1) / (good_K @ (yes_KJ | no_KJ) + 2)).tolist(),
        )
        before_K, q_K = q_K, 1 / (1 + np.exp(-_log_odds(skills, votes_KJ)))
        if np.abs(np.where(label_K == SILENT, q_K - before_K, 0.0)).max(initial=0.0) < _STILL:
            break
    return skills
