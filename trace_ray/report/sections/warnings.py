"""What a reader must know before trusting the figures: rules over the other sections, each with what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trace_ray.corpus.refused import many_refused, refused_share
from trace_ray.pairs import RejectReason
from trace_ray.report.sections.change import ChangeSection
from trace_ray.report.sections.gap import Gap
from trace_ray.report.sections.impact import ImpactSection
from trace_ray.report.sections.judge import JudgeSection
from trace_ray.report.sections.lineage import Lineage
from trace_ray.report.sections.problems import Problems

ABSTAIN_PERCENT = 10.0
CLAMPED_SHARE = 0.5
FEW_PROMPTS = 30
UNREADABLE_PERCENT = 2.0
KAPPA = 0.6


@dataclass(frozen=True)
class Caution:
    """One thing to know: ``bad`` puts a result in doubt, ``note`` is worth a look."""

    level: str
    text: str
    remedy: str


def warnings(
    *,
    gap: Gap | None,
    judge: JudgeSection | None,
    impact: ImpactSection | None,
    change: ChangeSection | None,
    problems: Problems,
    lineage: Lineage,
    anchored: bool,
) -> list[Caution]:
    """Returns the warnings, ``bad`` ones first; ``anchored``: whether the method holds RETAIN pairs by a KL."""
    found = [
        *_of_noise(lineage.noise),
        *_of_judge(judge),
        *(_of_gap(gap, problems) if gap else ()),
        *_of_cuts(problems),
        *(_of_impact(impact) if impact else ()),
        *(_of_change(change, anchored) if change else ()),
    ]
    return sorted(found, key=lambda one: one.level != "bad")


def _of_noise(noise: Mapping[str, int]) -> Iterator[Caution]:
    """Noise is laid over triage's verdicts, so neither the corpus' nor the judge's figures show it."""
    if noise:
        kinds = ", ".join(f"{rows:,} by {kind.removeprefix('noise ')}" for kind, rows in sorted(noise.items()))
        text = f"The labels of {sum(noise.values()):,} training rows were damaged on purpose (corpus.noise): {kinds}."
        yield Caution("bad", text, "set corpus.noise.flip and corpus.noise.swap to 0 for a model to be used")


def _of_judge(judge: JudgeSection | None) -> Iterator[Caution]:
    if judge is None:
        return
    if judge.refusal:
        text = f"{judge.refusal.text} The run stopped here." if judge.stopped else judge.refusal.text
        yield Caution("bad", text, judge.refusal.remedy)
        if judge.stopped:
            return
    if judge.audit is None:
        if judge.judge != "rules":
            remedy = "label a sample and set triage.audit_labels, or run `trace-ray audit`"
            text = (
                "The triage judge was compared with labels in another audit only (triage.audit_file), not in this run."
                if judge.audit_file
                else "The triage judge was never compared with labels: its errors are unknown."
            )
            yield Caution("note" if judge.audit_file else "bad", text, remedy)
        return
    figures = judge.audit.figures
    if figures["kappa"] is not None and figures["kappa"] < KAPPA:
        text = f"Judge and labels agree only moderately (kappa {figures['kappa']:.2f})."
        yield Caution("note", text, "choose triage.threshold from the audit, or widen triage.abstain_band")


def _of_gap(gap: Gap, problems: Problems) -> Iterator[Caution]:
    if gap.overall.total and not gap.overall.conflicts:
        yield Caution("bad", "No pair conflicts with the new policy: there is nothing to realign.", "check the policy")
    if gap.overall.percent("ABSTAIN") > ABSTAIN_PERCENT:
        text = f"The judge could not decide {gap.overall.percent('ABSTAIN'):.0f} % of the pairs."
        yield Caution("note", text, "narrow triage.abstain_band, lower triage.judge.min_mass or take a stronger judge")
    refused: Counter[str] = Counter()
    for one in problems.refused:
        if one.stage != "impact":  # those were rows of triage first, and have a warning of their own
            refused[one.reason] += one.rows
    if many_refused(refused, gap.made):
        remedy = "see “What went wrong” for examples, and `trace-ray check` on the files"
        share = refused_share(refused, gap.made, "pairs" if gap.extra else "rows")
        yield Caution("bad", f"{share}.", remedy)
    elif leaks := refused[RejectReason.HELD_OUT_PROMPT]:
        yield Caution("note", f"{leaks:,} training pairs were refused: their prompts are held out.", "nothing to do")


def _of_cuts(problems: Problems) -> Iterator[Caution]:
    if problems.cut:
        yield Caution(
            "note", f"Training rows: {problems.cut}.", "raise model.max_length, and look at “What went wrong”"
        )


def _of_impact(impact: ImpactSection) -> Iterator[Caution]:
    for name, row in sorted(impact.summary.items()):
        if impact.weights_kind == "impact" and row["share_clamped"] >= CLAMPED_SHARE:
            text = f"{100 * row['share_clamped']:.0f} % of the {name} conflicts have no positive impact: weight 0."
            yield Caution("note", text, "try objective.weights=uniform, or a larger impact.gold_size")


def _of_change(change: ChangeSection, anchored: bool) -> Iterator[Caution]:
    if change.damage:
        text = (
            f"The realigned model is damaged, whatever it complies with: {'; '.join(d.said() for d in change.damage)}."
        )
        hold = "raise objective.alpha_kl" if anchored else "hold RETAIN by objective.RETAIN.loss=kl"
        yield Caution(
            "bad", text, f"lower realign.learning_rate, train fewer steps, or {hold}; look at the answers below"
        )
    if change.judge_is_triage_judge:
        text = "The judge of these answers is the judge of triage: its errors do not show in the result."
        yield Caution("bad", text, "give evaluate.judge another model")
    for row in change.by_category:
        if row.change < 0 and row.clear:
            text = f"{row.name}: compliance fell from {row.base.value:.0f} to {row.realigned.value:.0f} %."
            hold = "raise objective.alpha_kl" if anchored else "hold RETAIN by objective.RETAIN.loss=kl"
            yield Caution("bad", text, f"{hold}, or lower realign.learning_rate")
        elif row.name == "RETAIN" and row.change < -1:
            text = f"RETAIN: compliance went from {row.base.value:.1f} to {row.realigned.value:.1f} %."
            yield Caution("note", text, "within the intervals; look at the answers below")
    if not change.overall.clear:
        text = "The change in agreement is smaller than its uncertainty."
        yield Caution("note", text, "evaluate more held-out prompts, or train longer")
    few = [row.name for row in change.by_category if row.prompts < FEW_PROMPTS]
    if few:
        text = f"Fewer than {FEW_PROMPTS} held-out prompts: {', '.join(few)}; their intervals are wide."
        yield Caution("note", text, "raise corpus.holdout or give corpus.test_paths")
    unclear = sum(change.unclear.values())
    if 100 * unclear > UNREADABLE_PERCENT * 2 * change.overall.prompts:
        text = f"{unclear} answers had no readable verdict and count as violating."
        yield Caution("note", text, "lower evaluate.judge.min_mass, or take another judge")
