"""A panel's verdict on its judges' votes: against the likelihood written out, and judges whose error rates are known."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from trace_ray.triage.dawid_skene import COMPLIES, SILENT, VIOLATES, Skills, fit_skills
from trace_ray.triage.panel import MAJORITY, Panel, majority, votes_N

SENSITIVITY, SPECIFICITY, PREVALENCE = [0.95, 0.8, 0.7], [0.75, 0.9, 0.95], 0.3


def simulated(rng: np.random.Generator, number: int) -> tuple[Any, Any]:
    """(Votes of three judges of those skills, which of the responses violate)."""
    violates = rng.random(number) < PREVALENCE
    right = rng.random((number, 3)) < np.where(violates[:, None], SENSITIVITY, SPECIFICITY)
    return (right == violates[:, None]).astype(np.int8), violates


def counted(votes: Any, labels: Any = None) -> Counter[tuple[tuple[int, ...], int]]:
    labels = [SILENT] * len(votes) if labels is None else labels
    return Counter((tuple(map(int, row)), int(label)) for row, label in zip(votes, labels, strict=True))


def log_posterior(rates: Any, votes: Any, labels: Any) -> float:
    """Written out: a product over the responses of a sum over the truth, and a Beta(2, 2) of each rate."""
    prevalence, sensitivity, specificity = rates[0], rates[1 : 1 + votes.shape[1]], rates[1 + votes.shape[1] :]
    total = float(np.log(rates * (1 - rates)).sum())
    for row, label in zip(votes, labels, strict=True):
        bad, good = prevalence, 1 - prevalence
        for judge, vote in enumerate(row):
            if vote != SILENT:
                bad *= sensitivity[judge] if vote == VIOLATES else 1 - sensitivity[judge]
                good *= 1 - specificity[judge] if vote == VIOLATES else specificity[judge]
        total += float(np.log(bad if label == VIOLATES else good if label == COMPLIES else bad + good))
    return total


def rates_of(skills: Skills) -> Any:
    return np.array([skills.prevalence, *skills.sensitivity, *skills.specificity])


def climbed(votes: Any, labels: Any) -> Any:
    """The rates at the highest posterior that a general optimiser finds from judges that are better than chance."""

    def loss(x: Any) -> float:
        return -log_posterior(1 / (1 + np.exp(-x)), votes, labels)

    start = np.log(np.array([0.5, *[0.7] * (2 * votes.shape[1])]) / np.array([0.5, *[0.3] * (2 * votes.shape[1])]))
    return 1 / (1 + np.exp(-minimize(loss, start, tol=1e-10).x))


@pytest.mark.parametrize("labelled", [0, 25])
def test_skills_are_where_the_likelihood_written_out_is_highest(labelled: int) -> None:
    rng = np.random.default_rng(4)
    votes, violates = simulated(rng, 120)
    votes[rng.random(votes.shape) < 0.1] = SILENT
    labels = np.where(np.arange(120) < labelled, violates, SILENT)
    found = rates_of(fit_skills(counted(votes, labels)))
    assert found == pytest.approx(climbed(votes, labels), abs=2e-3)
    for number in range(len(found)):  # and no step to either side goes higher
        for step in (-0.01, 0.01):
            moved = found.copy()
            moved[number] = np.clip(moved[number] + step, 0.001, 0.999)
            assert log_posterior(moved, votes, labels) < log_posterior(found, votes, labels)


def test_three_judges_tell_their_own_error_rates_without_a_label() -> None:
    votes, violates = simulated(np.random.default_rng(0), 40_000)
    skills = fit_skills(counted(votes))
    assert rates_of(skills) == pytest.approx(np.array([PREVALENCE, *SENSITIVITY, *SPECIFICITY]), abs=0.02)
    said = skills.p_violates(votes)
    asked = np.ones_like(votes, dtype=bool)
    ours, plain = ((p >= 0.5) == violates for p in (said, majority(votes, asked)))
    assert ours.mean() >= plain.mean() > 0.85
    for low, high in itertools.pairwise((0.0, 0.2, 0.8, 1.0)):
        mine = (said >= low) & (said < high)
        assert said[mine].mean() == pytest.approx(violates[mine].mean(), abs=0.03), "a probability, as said"


def test_two_judges_learn_their_rates_from_labels_and_a_tie_goes_to_the_better() -> None:
    votes, violates = simulated(np.random.default_rng(1), 40_000)
    labels = np.where(np.arange(len(votes)) < 2000, violates, SILENT)
    skills = fit_skills(counted(votes[:, :2], labels))
    wanted = [PREVALENCE, *SENSITIVITY[:2], *SPECIFICITY[:2]]
    assert rates_of(skills) == pytest.approx(np.array(wanted), abs=0.03)
    tie, other = skills.p_violates(np.array([[1, 0], [0, 1]], dtype=np.int8))
    truth = [violates[(votes[:, 0] == a) & (votes[:, 1] == b)].mean() for a, b in ((1, 0), (0, 1))]
    assert [tie, other] == pytest.approx(truth, abs=0.04)


def test_a_silent_judge_never_counts_as_one_that_agrees() -> None:
    skills = Skills(PREVALENCE, SENSITIVITY, SPECIFICITY)
    votes = np.array([[1, SILENT, SILENT], [1, 1, SILENT], [1, 1, 1], [1, SILENT, 0]], dtype=np.int8)
    alone, two, three, split = skills.p_violates(votes)
    assert np.isnan(alone)
    assert two < three
    odds = PREVALENCE / (1 - PREVALENCE) * (0.95 / 0.25) * (0.3 / 0.95)
    assert split == pytest.approx(odds / (1 + odds))
    asked = np.array([[True, True, False], [True, True, False], [True, True, True], [True, True, True]])
    found = Panel(MAJORITY).p_violates(votes, asked)
    assert np.isnan(found[[0, 3]]).all()
    assert found[[1, 2]].tolist() == [1.0, 1.0]


def test_a_vote_within_the_band_is_none() -> None:
    p = np.array([0.5, 0.75, 0.69, 0.25, 0.31, np.nan, 0.49])
    assert votes_N(p, 0.5, 0.25).tolist() == [SILENT, VIOLATES, SILENT, COMPLIES, SILENT, SILENT, SILENT]
    assert votes_N(p, 0.5, 0.0).tolist() == [VIOLATES, VIOLATES, VIOLATES, COMPLIES, COMPLIES, SILENT, COMPLIES]
