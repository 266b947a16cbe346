"""Which settings say what verdicts mean, and how good their judge must be. All others say what is judged, and by whom."""

from __future__ import annotations

import re
from collections.abc import Iterable

DECIDING = (
    *("threshold", "abstain_band", "combine", "calibration", "false_invert_rate", "confidence"),
    *("audit_labels", "audit_by", "audit_file", "audit_rows", "review_labels", "min_auc", "min_canary_pass"),
    *("correct", "gold_responses", "corrector", "corrector_judge", "corrector_tokens"),
)
"""Below ``triage.``: what may be changed on a run without judging a response again. Corrections are drafted while deciding."""

AUDITING = ("audit_labels", "min_auc", "min_kappa", "min_canary_pass")
"""Below ``evaluate.``: what may be changed without answering or judging again."""

_OF_EVALUATE = re.compile(r"evaluate\.(\w+)")
_OF_TRIAGE = re.compile(r"triage\.(\w+)")


def is_deciding(name: str) -> bool:
    """Returns whether an input of triage (a setting, or a file that one names) says what verdicts mean.

    >>> [is_deciding(name) for name in ("triage.threshold", "triage.review_labels content", "triage.judge.model", "policy")]
    [True, True, False, False]
    """
    match = _OF_TRIAGE.match(name)
    return match is not None and match[1] in DECIDING


def is_auditing(name: str) -> bool:
    """Returns whether an input of the evaluation only says how good its judge is, or must be.

    >>> [is_auditing(name) for name in ("evaluate.audit_labels content", "evaluate.min_auc", "evaluate.judge.model")]
    [True, True, False]
    """
    match = _OF_EVALUATE.match(name)
    return match is not None and match[1] in AUDITING


def all_auditing(names: Iterable[str]) -> bool:
    """As ``all_deciding``, of the evaluation."""
    named = list(names)
    return bool(named) and all(map(is_auditing, named))


def all_deciding(names: Iterable[str]) -> bool:
    """Returns whether some inputs are named and each of them is deciding's."""
    named = list(names)
    return bool(named) and all(map(is_deciding, named))
