"""How good the judge is: its figures against labels, and how sure it was of the corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trace_ray.artifacts import Run
from trace_ray.config import TriageConfig
from trace_ray.pairs import Category
from trace_ray.report.tally import published

AUDIT = "audit.json"
BINS = 20


@dataclass(frozen=True)
class Certainty:
    """Responses by P(violates), in BINS equal bins; unreadable ones apart."""

    chosen: list[int]
    rejected: list[int]
    unreadable: int

    @property
    def responses(self) -> int:
        return sum(self.chosen) + sum(self.rejected) + self.unreadable


@dataclass(frozen=True)
class JudgeAudit:
    """The judge against labels.

    Args:
        figures: audit.json as triage wrote it.
        roc: (false positive rate, true positive rate) points; empty where none were stored.
        reliability: (mean P(violates), observed share violating, responses) of each bin; empty likewise.
        confusion: rows are the label's categories, columns the judge's; both in the order of ``names``.
        canaries: {passed, total, failed: [name]}, None where none were run.
    """

    figures: Mapping[str, Any]
    roc: list[tuple[float, float]]
    reliability: list[tuple[float, float, int]]
    names: list[str]
    confusion: list[list[int]]


@dataclass(frozen=True)
class JudgeSection:
    """What is known of the triage judge; ``certainty`` is None for rules, which are always sure."""

    judge: str
    threshold: float
    abstain_band: float
    min_auc: float
    audit: JudgeAudit | None
    certainty: Certainty | None


def judge_section(run: Run, triage: TriageConfig) -> JudgeSection | None:
    """Returns the judge's figures; those of an audit even where it stopped the run."""
    place = run.triaged.place / AUDIT
    figures = json.loads(place.read_text()) if place.exists() else None
    if figures is None and not run.triaged.done():
        return None
    return JudgeSection(
        judge=triage.judge.model or triage.judge.backend,
        threshold=triage.threshold,
        abstain_band=triage.abstain_band,
        min_auc=triage.min_auc,
        audit=judge_audit(figures) if figures else None,
        certainty=certainty(run) if run.triaged.done() and triage.judge.backend != "rules" else None,
    )


def judge_audit(figures: Mapping[str, Any]) -> JudgeAudit:
    """Returns audit.json's figures ready to be shown; curves and canaries only where they were stored."""
    names = [c.value for c in Category if any(c.value in key.split("->") for key in figures["confusion"])]
    return JudgeAudit(
        figures=figures,
        roc=roc_points(figures),
        reliability=reliability_points(figures),
        names=names,
        confusion=[[figures["confusion"].get(f"{want}->{got}", 0) for got in names] for want in names],
    )


def roc_points(figures: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Returns the ROC curve that the audit stored under ``roc``: {fpr: [...], tpr: [...]}."""
    roc = figures.get("roc")
    return list(zip(roc["fpr"], roc["tpr"], strict=True)) if roc else []


def reliability_points(figures: Mapping[str, Any]) -> list[tuple[float, float, int]]:
    """Returns the reliability table that the audit stored under ``reliability``."""
    rows: Sequence[Mapping[str, Any]] = figures.get("reliability") or []
    return [(row["mean_p"], row["observed"], row["count"]) for row in rows if row["count"]]


def certainty(run: Run) -> Certainty:
    """Returns the distribution of P(violates) over both responses of every triaged pair."""
    counts = {name: np.zeros(BINS, int) for name in ("chosen", "rejected")}
    unreadable = 0
    for table in published(run.triaged, [f"p_violates_{name}" for name in counts]):
        for name in counts:
            values = table[f"p_violates_{name}"]
            unreadable += values.null_count
            counts[name] += np.histogram(values.drop_null().to_numpy(), bins=BINS, range=(0.0, 1.0))[0]
    return Certainty(counts["chosen"].tolist(), counts["rejected"].tolist(), unreadable)
