"""What a reader must know before trusting the figures: rules over the other sections, each with what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from trace_ray.config import ObjectiveConfig
from trace_ray.corpus.refused import many_refused, refused_share
from trace_ray.pairs import RejectReason
from trace_ray.report.limits import (
    ABSTAIN_PERCENT,
    CLAMPED_SHARE,
    FOREIGN_PERPLEXITY,
    KAPPA_MODERATE,
    KAPPA_STRONG,
    SMALL_LOSS,
    UNREADABLE_PERCENT,
)
from trace_ray.report.names import plain_category
from trace_ray.report.sections.change import ChangeSection
from trace_ray.report.sections.gap import Gap
from trace_ray.report.sections.impact import ImpactSection
from trace_ray.report.sections.judge import RULES, JudgeSection
from trace_ray.report.sections.lineage import Lineage
from trace_ray.report.sections.problems import Problems
from trace_ray.report.sections.training import TrainingSection
from trace_ray.report.sections.trust import one_sided
from trace_ray.runs.damage import FEW_PROMPTS


@dataclass(frozen=True)
class Caution:
    """One thing to know: ``bad`` puts a result in doubt, ``note`` is worth a look; ``stage`` is whose figures tell it."""

    level: str
    text: str
    remedy: str
    stage: str = ""


def warnings(
    *,
    gap: Gap | None,
    judge: JudgeSection | None,
    impact: ImpactSection | None,
    change: ChangeSection | None,
    problems: Problems,
    lineage: Lineage,
    objective: ObjectiveConfig,
    training: TrainingSection | None = None,
) -> list[Caution]:
    """Returns the warnings, ``bad`` ones first."""
    by_stage: dict[str, Iterable[Caution]] = {
        "triage": [*_of_noise(lineage.noise), *_of_judge(judge), *(_of_gap(gap, problems) if gap else ())],
        "impact": [*_of_cuts(problems), *(_of_impact(impact) if impact else ())],
        "realign": _of_training(training) if training else (),
        "evaluate": _of_change(change, objective) if change else (),
    }
    for stage, said in problems.stopped.items():
        if stage != "triage":  # what stopped it is the judge's
            seen, _, remedy = said.rpartition(": ")
            caution = Caution("bad", f"Stage {stage} stopped: {seen or said}.", remedy if seen else "see its terminal")
            by_stage[stage] = [*by_stage[stage], caution]
    found = [replace(caution, stage=stage) for stage, cautions in by_stage.items() for caution in cautions]
    return sorted(found, key=lambda warning: warning.level != "bad")


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
    if judge.unchecked:
        text = f"No rule checks {len(judge.unchecked)} of {judge.clauses} clauses: {', '.join(judge.unchecked)}."
        yield Caution("bad", text, "take a judge that reads (triage.judge.backend=vllm), or write rules for them")
    if (said := one_sided(judge)) and not (judge.judge == RULES and "compliant" in said):
        remedy = "check the rules" if judge.judge == RULES else "take a stronger judge, and audit it with labels"
        yield Caution("bad", f"The judge {said}: hostile text that it holds out against proves nothing.", remedy)
    if judge.audit is None:
        if judge.judge != RULES:
            remedy = "label a sample and set triage.audit_labels, or run `trace-ray audit`"
            text = (
                "The triage judge was compared with labels in another audit only (triage.audit_file), not in this run."
                if judge.audit_file
                else "The triage judge was never compared with labels: its errors are unknown."
            )
            yield Caution("note" if judge.audit_file else "bad", text, remedy)
        return
    kappa = judge.audit.figures["kappa"]
    if kappa is not None and kappa < KAPPA_STRONG:
        poor = kappa < KAPPA_MODERATE
        text = f"Judge and labels agree {'poorly' if poor else 'only moderately'} (kappa {kappa:.2f})."
        remedy = "choose triage.threshold from the audit, or widen triage.abstain_band"
        yield Caution(
            "bad" if poor else "note", text, "take a stronger judge; a threshold cannot mend it" if poor else remedy
        )


def _of_gap(gap: Gap, problems: Problems) -> Iterator[Caution]:
    if gap.overall.total and not gap.overall.conflicts:
        yield Caution(
            "note",
            "No pair conflicts with the new policy: there is nothing to realign.",
            "make sure that it is the policy you mean",
        )
    if gap.overall.percent("ABSTAIN") > ABSTAIN_PERCENT:
        text = f"The judge could not decide {gap.overall.percent('ABSTAIN'):.0f} % of the pairs."
        yield Caution("note", text, "narrow triage.abstain_band, lower triage.judge.min_mass or take a stronger judge")
    if share := refused_too_many(gap, problems):
        remedy = "see “What went wrong” for examples, and `trace-ray check` on the files"
        yield Caution("bad", f"{share}.", remedy)
    elif leaks := _refused(problems)[RejectReason.HELD_OUT_PROMPT]:
        yield Caution("note", f"{leaks:,} training pairs were refused: their prompts are held out.", "nothing to do")


def refused_too_many(gap: Gap, problems: Problems) -> str:
    """Returns what is to be said of refused rows where they are many; empty where they are few."""
    refused = _refused(problems)
    many = many_refused(refused, gap.made)
    return refused_share(refused, gap.made, "pairs" if gap.extra else "rows") if many else ""


def _refused(problems: Problems) -> Counter[str]:
    """Counts what triage refused; what impact did were rows of triage first, and have a warning of their own."""
    counted: Counter[str] = Counter()
    for refusal in problems.refused:
        if refusal.stage != "impact":
            counted[refusal.reason] += refusal.rows
    return counted


def _of_cuts(problems: Problems) -> Iterator[Caution]:
    if problems.cut:
        yield Caution(
            "note", f"Training rows: {problems.cut}.", "raise model.max_length, and look at “What went wrong”"
        )


def _of_impact(impact: ImpactSection) -> Iterator[Caution]:
    for name, row in sorted(impact.summary.items()):
        if impact.weights_kind == "impact" and row["share_clamped"] >= CLAMPED_SHARE:
            which = f"the conflicts that are {plain_category(name)}"
            text = f"{100 * row['share_clamped']:.0f} % of {which} have no positive impact: weight 0."
            yield Caution("note", text, "try objective.weights=uniform, or a larger impact.gold_size")


def _of_training(training: TrainingSection) -> Iterator[Caution]:
    for alarm in training.alarms:
        seen, _, remedy = alarm.text.rpartition("; ")
        yield Caution("note" if alarm.note else "bad", f"Training, from step {alarm.step}: {seen}.", remedy)


def _of_change(change: ChangeSection, objective: ObjectiveConfig) -> Iterator[Caution]:
    by = objective.firmer if objective.anchored("RETAIN") else "objective.RETAIN.loss=kl"
    if change.damage:
        text = (
            f"The realigned model is damaged, whatever it complies with: {'; '.join(d.said() for d in change.damage)}."
        )
        yield Caution(
            "bad",
            text,
            f"lower realign.learning_rate, train fewer steps, or hold RETAIN by {by}; look at the answers below",
        )
    if change.judge_is_triage_judge:
        text = "The judge of these answers is the judge of triage: its errors do not show in the result."
        yield Caution("bad", text, "give evaluate.judge another model")
    for row in change.by_category:
        if row.change < 0 and row.clear:
            text = f"{_capital(row.name)}: compliance fell from {row.base.value:.0f} to {row.realigned.value:.0f} %."
            yield Caution("bad", text, f"hold RETAIN by {by}, or lower realign.learning_rate")
        elif row.name == "RETAIN" and row.change < -SMALL_LOSS:
            text = f"{_capital(row.name)}: compliance went from {row.base.value:.1f} to {row.realigned.value:.1f} %."
            yield Caution("note", text, "within the intervals; look at the answers below")
    yield from _of_gain(change)
    few = [plain_category(row.name) for row in change.by_category if row.prompts < FEW_PROMPTS]
    if few:
        text = f"Fewer than {FEW_PROMPTS} held-out prompts: {', '.join(few)}; their intervals are wide."
        yield Caution("note", text, "raise corpus.holdout or give corpus.test_paths")
    unclear = sum(change.unclear.values())
    if 100 * unclear > UNREADABLE_PERCENT * 2 * change.overall.prompts:
        text = f"{unclear} answers had no readable verdict and count as violating."
        yield Caution("note", text, "lower evaluate.judge.min_mass, or take another judge")


def _capital(name: str) -> str:
    return plain_category(name).capitalize()


def _of_gain(change: ChangeSection) -> Iterator[Caution]:
    """Advice that fits: a base that complies needs no realignment, and one that finds its own data foreign no more of it."""
    base, perplexity = change.overall.base.value, change.base_perplexity
    if change.complied_already:
        text = f"The base already complies with {base:.3g} % of the prompts: there is little to realign."
        yield Caution("note", text, "keep the base model, or hold out prompts that the new policy treats otherwise")
    elif not change.overall.clear:
        text = "The change in agreement is smaller than its uncertainty."
        longer = ", or train longer" if change.overall.change >= 0 else ""
        yield Caution("note", text, f"evaluate more held-out prompts{longer}")
    if perplexity is not None and perplexity >= FOREIGN_PERPLEXITY:
        text = f"The base finds the answers that it should keep improbable (perplexity {perplexity:,.0f})."
        yield Caution(
            "bad", f"{text} These pairs did not align this model.", "realign with the pairs it was aligned on"
        )
