"""The first screen: five questions of a policy owner, each answered by one number and one sentence."""

from __future__ import annotations

from dataclasses import dataclass

from trace_ray.report.sections.change import ChangeSection
from trace_ray.report.sections.cost import CostSection, duration
from trace_ray.report.sections.gap import Gap
from trace_ray.report.sections.impact import ImpactSection
from trace_ray.report.sections.judge import JudgeSection


@dataclass(frozen=True)
class Card:
    """One answer: ``tone`` is good, bad, warn or plain; ``anchor`` the section that says more."""

    question: str
    answer: str
    sentence: str
    anchor: str
    tone: str = "plain"


def headline(
    gap: Gap | None,
    judge: JudgeSection | None,
    impact: ImpactSection | None,
    change: ChangeSection | None,
    cost: CostSection,
) -> list[Card]:
    """Returns the cards of whatever is known."""
    cards = [
        _gap(gap) if gap else None,
        _judge(judge) if judge else None,
        _change(change) if change else None,
        _kept(change) if change else None,
        _impact(impact) if impact and impact.pairs else None,
        _cost(cost) if cost.stages else None,
    ]
    return [card for card in cards if card]


def _gap(gap: Gap) -> Card:
    share = 100 * gap.overall.conflicts / max(1, gap.overall.total)
    sentence = (
        f"of {gap.overall.total:,} pairs conflict with the new policy: {gap.overall.counts.get('INVERT', 0):,} are "
        f"backwards, {gap.overall.counts.get('PUNISH', 0):,} have no compliant response."
    )
    return Card("How far is the corpus?", f"{share:.0f} %", sentence, "gap")


def _judge(judge: JudgeSection) -> Card:
    question = "How good is the judge?"
    if judge.refusal:
        outcome = "the run stopped." if judge.stopped else f"{judge.refusal.limit} is not kept."
        return Card(question, "Refused", f"{judge.refusal.seen}: {outcome}", "judge", "bad")
    if judge.audit is None:
        exact = judge.judge == "rules"
        answer, tone = ("Exact", "good") if exact else ("Not audited", "warn")
        unknown = "Threshold and calibration are another audit's." if judge.audit_file else "No labels were given."
        text = "The policy's own rules decide, in code." if exact else f"{unknown} Its errors here are unknown."
        return Card(question, answer, text, "judge", tone)
    figures = judge.audit.figures
    held = judge.audit.held_back
    pairs = f"{held:,} labelled pairs not used to fit" if held else f"{figures['pairs']:,} labelled pairs"
    auc = f"AUC {figures['auc']:.3f}" + (f" over all {figures['pairs']:,}" if held else "")
    sentence = f"of {pairs} get the label's category; {auc}, kappa {_said(figures['kappa'], '.2f')}."
    return Card(question, _said(figures["agreement"], ".1%").replace("%", " %"), sentence, "judge", "good")


def _said(figure: float | None, form: str) -> str:
    """A kappa on labels of one class is none."""
    return "–" if figure is None else format(figure, form)  # noqa: RUF001 - as the tables do


def _change(change: ChangeSection) -> Card:
    row = change.overall
    tone = "good" if row.change > 0 and row.clear else "bad" if row.change < 0 and row.clear else "warn"
    if change.damage:
        sentence = f"comply, by a damaged model: {'; '.join(one.seen for one in change.damage)}. Rely on no share here."
        answer = f"Damaged, {row.base.value:.3g} → {row.realigned.value:.3g} %"
        return Card("What changed in the model?", answer, sentence, "change", "bad")
    sentence = (
        f"of answers to {row.prompts:,} held-out prompts comply after realignment; before, {row.base.value:.3g} % did: "
        f"{row.said(' points')}."
    )
    return Card(
        "What changed in the model?", f"{row.base.value:.3g} → {row.realigned.value:.3g} %", sentence, "change", tone
    )


def _kept(change: ChangeSection) -> Card | None:
    row = next((row for row in change.by_category if row.name == "RETAIN"), None)
    if row is None:
        return None
    tone = "bad" if change.damage else "good" if row.change >= -1 else "bad" if row.clear else "warn"
    sentence = f"compliance on the {row.prompts:,} prompts that the old preferences already answered well."
    return Card("Was anything lost?", f"{row.base.value:.3g} → {row.realigned.value:.3g} %", sentence, "change", tone)


def _impact(impact: ImpactSection) -> Card:
    if impact.weights_kind == "u2a":
        text = "The conflicts of highest impact were picked, and weighed anew in each round of training."
        return Card("Which pairs matter?", "By rounds", text, "impact")
    if impact.uniform:
        return Card("Which pairs matter?", "All alike", "The weights were set to be uniform.", "impact")
    sentence = (
        f"of all weight lies on the heaviest tenth of {impact.pairs:,} {impact.pairs_are}; "
        f"{impact.clamped:,} have weight 0."
    )
    return Card("Which pairs matter?", f"{impact.head_share:.0f} %", sentence, "impact")


def _cost(cost: CostSection) -> Card:
    slowest = max(cost.stages, key=lambda stage: stage.seconds)
    sentence = f"in all; {slowest.stage} took {duration(slowest.seconds)}."
    if cost.counted:
        sentence += f" {cost.tokens:,} tokens were counted in {', '.join(cost.counted)}."
    return Card("What did it cost?", duration(cost.seconds), sentence, "cost")
