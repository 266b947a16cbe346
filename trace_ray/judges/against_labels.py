"""A judge's probabilities against labels of the same responses: how well they order them, and how far verdicts agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_ROC_POINTS = 200
"""Most points of a stored curve: its file stays small, and no eye sees the difference."""


def area_under_curve(p_N: Any, violates_N: Any) -> float | None:
    """Returns the area under the ROC curve of N readable probabilities of violating; None where all labels are of one kind."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(violates_N, p_N)) if _of_both_kinds(violates_N) else None


def roc_points(p_N: Any, violates_N: Any) -> dict[str, list[float]] | None:
    """Returns that curve as shares of false alarms and of violations found, None where all labels are of one kind."""
    from sklearn.metrics import roc_curve

    if not _of_both_kinds(violates_N):
        return None
    false_alarms, found, _ = roc_curve(violates_N, p_N)
    kept = np.unique(np.linspace(0, len(found) - 1, _ROC_POINTS).astype(int))
    return {"false_alarms": false_alarms[kept].tolist(), "violations_found": found[kept].tolist()}


def kappa(violates_N: Any, said_N: Any) -> float | None:
    """Returns Cohen's kappa between labels and verdicts, None where all labels are of one kind."""
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(violates_N, said_N)) if _of_both_kinds(violates_N) else None


def without_curve(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an audit's figures for a manifest or a terminal; the curve's points are in audit.json."""
    return {name: value for name, value in figures.items() if name != "roc"}


def _of_both_kinds(violates_N: Any) -> bool:
    return len(set(np.asarray(violates_N).tolist())) == 2
