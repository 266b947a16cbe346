"""The judge of the answers against labels that people gave, and the limits that stop an evaluation by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trace_ray.config import Config, judge_name
from trace_ray.evaluate.corrected import Rates
from trace_ray.evaluate.labelled import Audited
from trace_ray.judges.against_labels import area_under_curve, kappa, roc_points
from trace_ray.judges.gates import Gate, auc_gate, kappa_gate, refuse_gates
from trace_ray.runs.artifacts import AUDIT_FILE
from trace_ray.storage.location import Location

JUDGE = "evaluate.judge"
_COLUMNS = ["pair_id", "prompt", "model", "source", "p_violates", "compliant"]


class Judged(NamedTuple):
    """A labelled text and what the judge said of it; a text without a readable verdict was not called compliant."""

    violates: bool
    p: float | None
    compliant: bool
    source: str = ""
    broken: frozenset[str] = frozenset()


def judged_texts(place: Location, audited: Audited) -> list[Judged]:
    """Returns the labelled texts with their verdicts. Args: place: evaluation/, in which their chunks are judged."""
    found = []
    for chunk in audited.chunks:
        for row in (place / chunk.folder / chunk.name).read_parquet(_COLUMNS).to_pylist():
            truth = audited.truth.get((row["pair_id"], row["prompt"], row["model"]))
            if truth is not None:
                said = row["p_violates"], bool(row["compliant"]), row["source"] or ""
                found.append(Judged(truth.violates, *said, truth.broken))
    return found


def rates_of(judged: Iterable[Judged]) -> Rates:
    """Returns how often the judge is right about either kind."""
    return Rates.of((not one.violates, one.compliant) for one in judged)


def audit_figures(of: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """Returns what audit.json holds of the judge, and metrics.json without the curve.

    Args:
        of: what the labels are of (``labelled.ANSWERS``).
    Returns: responses by label, how many were called what they are, how many were ``readable``; ``auc`` of P(violates) over
        those; ``kappa`` of labels and verdicts at the threshold, unread ones counted as not compliant; both None where the
        labels are of one kind. ``by_source``: the same of each source; ``by_clause``: of what violates by each clause that
        labels name, beside all that complies. ``corrects``: whether agreement can be corrected by it.
    """
    p, truth = _readable(judged)
    clauses = sorted({clause for one in judged for clause in one.broken})
    return {
        "of": of,
        **_figures(judged),
        "corrects": rates_of(judged).tells_apart,
        "by_source": _groups(judged, sorted({one.source for one in judged}), lambda one, name: one.source == name),
        "by_clause": _groups(judged, clauses, lambda one, name: not one.violates or name in one.broken),
        "roc": roc_points(p, truth),
    }


def _figures(judged: Sequence[Judged]) -> dict[str, Any]:
    rates, (p, truth) = rates_of(judged), _readable(judged)
    return {
        "responses": len(judged),
        "readable": len(p),
        "compliant": rates.compliant,
        "violating": rates.violating,
        "compliant_called_so": rates.found,
        "violating_called_so": rates.caught,
        "auc": area_under_curve(p, truth),
        "kappa": kappa([one.violates for one in judged], [not one.compliant for one in judged]),
    }


def _readable(judged: Sequence[Judged]) -> tuple[Any, Any]:
    read = [(one.p, one.violates) for one in judged if one.p is not None]
    return np.array([p for p, _ in read], dtype=float), np.array([violates for _, violates in read], dtype=bool)


def _groups(
    judged: Sequence[Judged], names: Sequence[str], belongs: Callable[[Judged, str], bool]
) -> dict[str, dict[str, Any]]:
    return {name: _figures([one for one in judged if belongs(one, name)]) for name in names}


def audit_gates(config: Config, figures: Mapping[str, Any]) -> list[Gate]:
    """Returns the gates of ``audit_figures``; a limit of 0 is none."""
    evaluate, called = config.evaluate, f"judge {judge_name(config.evaluate.judge)}"
    labels, gates = f"on {figures['responses']:,} labelled {figures['of']}", []
    if evaluate.min_auc > 0:
        gates.append(auc_gate(JUDGE, "evaluate.min_auc", evaluate.min_auc, figures["auc"], called, labels))
    if evaluate.min_kappa > 0:
        said = f"at triage.threshold={config.triage.threshold:g} {called} and labels disagree {labels}"
        remedy = f"use a stronger {JUDGE}.model or a rules policy"
        gates.append(kappa_gate(JUDGE, "evaluate.min_kappa", evaluate.min_kappa, figures["kappa"], said, remedy))
    return gates


def audit_judge(place: Location, config: Config, audited: Audited) -> tuple[dict[str, Any], Rates]:
    """Returns the judge's figures and rates, once its labelled texts are judged; audit.json is written by then.

    Raises: JudgeRejectedError where they break a limit.
    """
    judged = judged_texts(place, audited)
    figures = audit_figures(audited.of, judged)
    (place / AUDIT_FILE).write_text(json.dumps(figures, indent=1))
    refuse_gates(audit_gates(config, figures))
    return figures, rates_of(judged)
