"""Teaches the distilled first judge: on half of the dear judge's first verdicts; the other half says where it may decide.

It decides alone where its P(violates) lies outside of a band around the threshold: the narrowest one at which its agreement
with the dear judge is at least what is asked for, with the confidence of the audit: of what it decides, and of what the dear
judge calls violating and of what it calls compliant. Where violations are rare, a student that finds none agrees often.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from trace_ray.config import TriageConfig
from trace_ray.judges.cascade import CascadeJudge
from trace_ray.judges.distilled import DistilledJudge, Student
from trace_ray.storage.location import Location
from trace_ray.triage.calibrate import upper_bound
from trace_ray.triage.store import response_key

_BANDS = tuple(0.5 - 1 / (1 + math.exp(i / 10)) for i in range(80, -1, -1))
"""Half-widths in probability, even steps on the logit: how sure it is, widest first."""
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
        violating: of the checked ones by the dear judge; needed: of either kind, for the agreement to be shown at all.
        violating_kept, compliant_kept: of each kind, those that it leaves to the dear judge or calls the same.
    """

    learnt: int
    checked: int
    low: float = 0.0
    high: float = 1.0
    sure: float = 0.0
    agreement: float | None = None
    at_least: float | None = None
    violating: int = 0
    needed: int = 0
    violating_kept: float | None = None
    compliant_kept: float | None = None


def choose_sure(sure_BN: Any, agrees_N: Any, violates_N: Any, agreement: float, confidence: float) -> int | None:
    """Returns the last of the bands, widest first, up to which verdicts agree as often as asked; None for none.

    Args:
        sure_BN: for each band, which of N responses the student is sure of, that it did not learn from.
        agrees_N: whether its verdict is the dear judge's; violates_N: what that one says.
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
        wrong_N = sure_BN[i] & ~agrees_N
        of = ((wrong_N, sure_BN[i]), (wrong_N & violates_N, violates_N), (wrong_N & ~violates_N, ~violates_N))
        if any(upper_bound(int(wrong.sum()), int(those.sum()), confidence) > limit for wrong, those in of):
            break
        chosen = i
    return chosen


def least_of_a_kind(agreement: float, confidence: float) -> int:
    """Returns how many responses of a kind there must be for an agreement to be shown by them, none of them lost.

    >>> least_of_a_kind(0.97, 0.95)
    99
    """
    return math.ceil(math.log(1 - confidence) / math.log(agreement)) if 0 < agreement < 1 and confidence < 1 else 0


def teach(asked: Mapping[tuple[str, str], float], triage: TriageConfig) -> tuple[Student | None, Taught]:
    """Returns a student of the dear judge, None where it is never to decide, and what came of it.

    Args:
        asked: {(request, response): the dear judge's P(violates)}; the halves are drawn by a hash of the texts.
    """
    texts = sorted(asked, key=lambda both: response_key(*both))
    requests, responses = [request for request, _ in texts], [response for _, response in texts]
    truth_N = np.array([asked[both] for both in texts], dtype=float) >= triage.threshold
    learnt, checked = truth_N[::2], truth_N[1::2]
    needed = least_of_a_kind(triage.distil_agreement, triage.confidence)
    none = Taught(len(learnt), len(checked), violating=int(checked.sum()), needed=needed)
    if not len(checked) or min(int(learnt.sum()), int((~learnt).sum())) < _LEAST_OF_A_KIND:
        return None, none
    student = Student(triage.threshold)
    student.learn(requests[::2], responses[::2], learnt)
    p_N = student.p_violates(requests[1::2], responses[1::2])
    edges = [student.moved(np.array([0.5 - band, 0.5 + band])) for band in _BANDS]
    sure_BN = np.array([(p_N < low) | (p_N > high) for low, high in edges])
    agrees_N = (p_N >= triage.threshold) == checked
    at = choose_sure(sure_BN, agrees_N, checked, triage.distil_agreement, triage.confidence)
    if at is None:
        return None, none
    low, high = (float(edge) for edge in edges[at])
    wrong_N, sure = sure_BN[at] & ~agrees_N, int(sure_BN[at].sum())
    wrong = int(wrong_N.sum())
    return student, replace(
        none,
        low=low,
        high=high,
        sure=sure / len(checked),
        agreement=1 - wrong / sure,
        at_least=1 - upper_bound(wrong, sure, triage.confidence),
        violating_kept=1 - float(wrong_N[checked].mean()),
        compliant_kept=1 - float(wrong_N[~checked].mean()),
    )


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
