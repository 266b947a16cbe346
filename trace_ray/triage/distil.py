"""Teaches the distilled first judge: on half of the dear judge's first verdicts; the other half says where it may decide.

It decides alone where its P(violates) lies outside of a band around the threshold: the narrowest one at which its agreement
with the dear judge is at least what is asked for, with the confidence of the audit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trace_ray.config import TriageConfig
from trace_ray.judges.cascade import CascadeJudge
from trace_ray.judges.distilled import DistilledJudge, Student
from trace_ray.storage.location import Location
from trace_ray.triage.calibrate import upper_bound
from trace_ray.triage.store import response_key

_BANDS = tuple(i / 100 for i in range(49, -1, -1))
_LEAST_OF_A_KIND = 20
"""Verdicts of each kind below which nothing is learnt."""


@dataclass(frozen=True)
class Taught:
    """What came of it.

    Args:
        learnt, checked: responses learnt from, and those that it was held against.
        low, high: it decides below and above them; 0 and 1 where no band reaches the agreement: it never does.
        sure: share of the checked ones outside of the band; agreement: of these, those with the dear judge's verdict;
        at_least: with the confidence asked for.
    """

    learnt: int
    checked: int
    low: float = 0.0
    high: float = 1.0
    sure: float = 0.0
    agreement: float | None = None
    at_least: float | None = None


def choose_sure(sure_BN: Any, agrees_N: Any, agreement: float, confidence: float) -> int | None:
    """Returns the last of the bands, widest first, up to which the sure verdicts agree as often as asked; None for none.

    Args:
        sure_BN: for each band, which of N responses the student is sure of, that it did not learn from.
        agrees_N: whether its verdict is the dear judge's.
    Source: fixed-sequence testing, as ``calibrate.choose_band``: it begins at the first band at which one wrong verdict
        would be borne (else none), which no verdict has a say in, and the first band that fails ends it.
    """
    limit, numbers = 1 - agreement, sure_BN.sum(axis=1)
    starts = (
        next((i for i, n in enumerate(numbers) if upper_bound(e, int(n), confidence) <= limit), None) for e in (1, 0)
    )
    begin = next((start for start in starts if start is not None), None)
    chosen = None
    for i in range(begin if begin is not None else len(numbers), len(numbers)):
        if upper_bound(int((sure_BN[i] & ~agrees_N).sum()), int(numbers[i]), confidence) > limit:
            break
        chosen = i
    return chosen


def teach(asked: Mapping[tuple[str, str], float], triage: TriageConfig) -> tuple[Student | None, Taught]:
    """Returns a student of the dear judge, None where it is never to decide, and what came of it.

    Args:
        asked: {(request, response): the dear judge's P(violates)}; the halves are drawn by a hash of the texts.
    """
    texts = sorted(asked, key=lambda both: response_key(*both))
    requests, responses = [request for request, _ in texts], [response for _, response in texts]
    truth_N = np.array([asked[both] for both in texts], dtype=float) >= triage.threshold
    learnt, checked = truth_N[::2], truth_N[1::2]
    numbers = len(learnt), len(checked)
    if not len(checked) or min(int(learnt.sum()), int((~learnt).sum())) < _LEAST_OF_A_KIND:
        return None, Taught(*numbers)
    student = Student(triage.threshold)
    student.learn(requests[::2], responses[::2], learnt)
    p_N = student.p_violates(requests[1::2], responses[1::2])
    edges = [student.moved(np.array([0.5 - band, 0.5 + band])) for band in _BANDS]
    sure_BN = np.array([(p_N < low) | (p_N > high) for low, high in edges])
    agrees_N = (p_N >= triage.threshold) == checked
    at = choose_sure(sure_BN, agrees_N, triage.distil_agreement, triage.confidence)
    if at is None:
        return None, Taught(*numbers)
    sure, wrong = int(sure_BN[at].sum()), int((sure_BN[at] & ~agrees_N).sum())
    at_least = 1 - upper_bound(wrong, sure, triage.confidence)
    low, high = (float(edge) for edge in edges[at])
    return student, Taught(*numbers, low, high, sure / len(checked), 1 - wrong / sure, at_least)


def teach_cascade(
    cascade: CascadeJudge, asked: Iterable[tuple[str, str, float]], triage: TriageConfig, place: Location
) -> None:
    """Makes the first judge of a cascade from the (request, response, P(violates)) that the dear one judged.

    Args:
        place: where is written what came of it.
    """
    assert isinstance(cascade.first, DistilledJudge)
    student, taught = teach({(request, response): p for request, response, p in asked}, triage)
    cascade.first.student, cascade.low, cascade.high = student, taught.low, taught.high
    place.write_text(json.dumps(asdict(taught), indent=1))
