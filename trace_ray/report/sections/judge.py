"""How good the judge is: its figures against labels, and how sure it was of the corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trace_ray.config import TriageConfig, judge_name
from trace_ray.config.policy import PolicyConfig, unruled
from trace_ray.pairs import Category
from trace_ray.report.sections.refusal import Refusal, checked_pairs, refusal_at, refusal_of
from trace_ray.report.survey.clauses import SIDES
from trace_ray.report.survey.surveys import Surveys, decision_of
from trace_ray.report.survey.triaged import BINS, UNREADABLE, Triaged
from trace_ray.runs.artifacts import AUDIT_FILE, CANARIES, GATES, WORK, Run

RULES = "rules"
"""What rules are called where a judge is named."""


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
        figures: audit.json as it was written.
        held_back: pairs that all but AUC, ROC and readable are figures of, where a calibration took the rest; else 0.
        afterwards: by `trace-ray audit` once triage was done, so that its decision is none of triage's.
        roc: (false alarms, violations found) points; empty where the labels are of one class.
        reliability: (P(violates) said, share that violates, responses) of each bin; empty where none was stored.
        confusion: rows are the label's categories, columns the judge's; both in the order of ``names``.
    """

    figures: Mapping[str, Any]
    held_back: int
    afterwards: bool
    roc: list[tuple[float, float]]
    reliability: list[tuple[float, float, int]]
    names: list[str]
    confusion: list[list[int]]


@dataclass(frozen=True)
class PanelFigures:
    """What became of several judges' verdicts.

    Args:
        rule: ``triage.combine``; differ: pairs of which they gave different categories; decided: of them.
        skills: ``dawid_skene.Skills``, None with another rule; names: of its judges.
        labelled: whether labels told of the skills too.
    """

    rule: str = "agree"
    differ: int = 0
    decided: int = 0
    skills: Mapping[str, Any] | None = None
    names: Sequence[str] = ()
    labelled: bool = False


def _panel(manifest: Mapping[str, Any], triage: TriageConfig) -> PanelFigures:
    panel, counts = (
        manifest.get("decision", {}).get("panel") or {"rule": "agree", "skills": None},
        manifest.get("counts", {}),
    )
    judges = [judge for judge in (triage.judge, triage.second_judge, triage.third_judge) if judge is not None]
    return PanelFigures(
        rule=panel["rule"],
        differ=counts.get("judges_differ", 0),
        decided=counts.get("panel_decided", 0),
        skills=panel["skills"],
        names=[judge_name(judge) for judge in judges],
        labelled=bool(triage.audit_labels),
    )


@dataclass(frozen=True)
class JudgeSection:
    """What is known of the triage judge.

    Args:
        threshold, abstain_band: as triage used them, which an audit may have chosen.
        audit_file: another audit's file that triage took them from; empty without one.
        certainty: None for rules, which are always sure.
        refusal: the first limit that the judge does not keep; stopped: whether that ended the run.
        canaries: how hostile text fared: pass_rate, tried, unreadable, by_attack; None where none were tried.
        judges: agreement of the first two judges: share, kappa, responses; None with one. panel: what became of it.
        escalated: share of responses that a cheap first judge passed on; None without one.
        distilled: what came of teaching it, where it was made from the judge's own verdicts.
        verdicts: responses called ``violating`` and ``compliant``; empty before triage is done.
        clauses: of the policy; unchecked: the names of those that have no rule, where rules judge; else none.
    """

    judge: str
    threshold: float
    abstain_band: float
    audit_file: str
    min_auc: float
    refusal: Refusal | None
    stopped: bool
    audit: JudgeAudit | None
    certainty: Certainty | None
    canaries: Mapping[str, Any] | None
    judges: Mapping[str, float] | None
    escalated: float | None
    verdicts: Mapping[str, int] = field(default_factory=dict)
    clauses: int = 0
    unchecked: Sequence[str] = ()
    distilled: Mapping[str, Any] | None = None
    panel: PanelFigures = field(default_factory=PanelFigures)


def judge_section(
    run: Run, seen: Surveys, triage: TriageConfig, policy: PolicyConfig | None = None
) -> JudgeSection | None:
    """Returns the judge's figures; where they stopped the run, those of its audit or its canaries.

    Args:
        policy: whose clauses rules can check only where they have one; None = nothing is said of clauses.
    """
    done, audit = seen.triaged is not None, stored_audit(run)
    manifest = run.triaged.manifest() if done else {}
    canaries = manifest.get("canaries") if done else _canaries_so_far(run)
    refusal = refusal_of(audit.figures if audit else None, canaries, triage) or refusal_at(_gates(run, manifest))
    if not done and audit is None and refusal is None:
        return None
    decision, name = decision_of(run), judge_name(triage.judge)
    return JudgeSection(
        judge=name,
        threshold=decision.get("threshold", triage.threshold),
        abstain_band=decision.get("band", triage.abstain_band),
        audit_file=triage.audit_file,
        min_auc=triage.min_auc,
        refusal=refusal,
        stopped=refusal is not None and not done,
        audit=audit,
        certainty=certainty(seen.triaged) if seen.triaged and triage.judge.backend != "rules" else None,
        canaries=canaries,
        judges=manifest.get("judges"),
        panel=_panel(manifest, triage),
        escalated=manifest.get("escalated_share"),
        distilled=manifest.get("distilled"),
        verdicts=seen.triaged.verdicts if seen.triaged else {},
        clauses=len(policy.clauses) if policy else 0,
        unchecked=unruled(policy) if policy and name == RULES else (),
    )


def _canaries_so_far(run: Run) -> Mapping[str, Any] | None:
    """Returns the canaries of a triage that is not finished: those that stopped it are in its work folder alone."""
    place = run.triaged.place / WORK / CANARIES
    return json.loads(place.read_text()) if place.exists() else None


def _gates(run: Run, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the limits that the judges were held to before the corpus was judged; of an older triage none."""
    place = run.triaged.place / GATES
    return list(manifest.get("gates") or (json.loads(place.read_text()) if place.exists() else ()))


def stored_audit(run: Run) -> JudgeAudit | None:
    """Returns triage's own audit, else that of `trace-ray audit`; None where the judge was not compared with labels."""
    for folder in (run.triaged.place, run.place):
        if (folder / AUDIT_FILE).exists():
            return judge_audit(json.loads((folder / AUDIT_FILE).read_text()), afterwards=folder == run.place)
    return None


def judge_audit(figures: Mapping[str, Any], *, afterwards: bool) -> JudgeAudit:
    """Returns audit.json's figures ready to be shown; curves only where they were stored."""
    names = [c.value for c in Category if any(c.value in key.split("->") for key in figures["confusion"])]
    checked = checked_pairs(figures)
    rows: Sequence[Mapping[str, Any]] = figures.get("reliability") or []
    return JudgeAudit(
        figures=figures,
        held_back=checked if checked < figures["pairs"] else 0,
        afterwards=afterwards,
        roc=list(zip(*figures["roc"].values(), strict=True)) if figures["roc"] else [],
        reliability=[(row["said"], row["share"], row["responses"]) for row in rows],
        names=names,
        confusion=[[figures["confusion"].get(f"{want}->{got}", 0) for got in names] for want in names],
    )


def certainty(seen: Triaged) -> Certainty:
    """Returns the distribution of P(violates) over both responses of every triaged pair."""
    chosen, rejected = ([seen.certainty[side, place] for place in range(BINS)] for side in SIDES)
    return Certainty(chosen, rejected, sum(seen.certainty[side, UNREADABLE] for side in SIDES))
