"""The first screen: the questions of a policy owner, each answered by one number and one sentence."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trace_ray.report.limits import SMALL_LOSS
from trace_ray.report.sections.change import ChangeSection
from trace_ray.report.sections.cost import CostSection, duration
from trace_ray.report.sections.gap import Gap
from trace_ray.report.sections.impact import ImpactSection
from trace_ray.report.sections.judge import JudgeSection
from trace_ray.report.sections.trust import Trust, answer_judge, corpus_judge, doubted
from trace_ray.report.sections.worse import Worse

NOT_MEASURED = "Not measured"


@dataclass(frozen=True)
class Card:
    """One answer: ``tone`` is good, bad, warn or plain; ``anchor`` the section that says more, empty without one."""

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
    worse: Worse | None = None,
) -> list[Card]:
    """Returns the cards; of what no stage has measured yet, a card that says so."""
    trust, answers = corpus_judge(judge), answer_judge(change, judge)
    return [
        _gap(gap, trust),
        _trust("How good is the judge?", trust, "judge"),
        _as_judged(_change(change), answers),
        _trust("Who judged the answers?", answers, "change"),
        _as_judged(_kept(change, worse), answers),
        _impact(impact, gap),
        _cost(cost),
    ]


def _open(question: str, what: str, anchor: str = "") -> Card:
    return Card(question, NOT_MEASURED, what, anchor)


def _trust(question: str, trust: Trust, anchor: str) -> Card:
    return Card(question, trust.answer, trust.sentence, "" if trust.answer == NOT_MEASURED else anchor, trust.tone)


def _as_judged(card: Card, answers: Trust) -> Card:
    """A share that a circular judge gave, or rules that leave a clause out, is no success."""
    return replace(card, tone="warn") if doubted(answers) and card.tone == "good" else card


def _gap(gap: Gap | None, trust: Trust) -> Card:
    question = "How far is the corpus?"
    if gap is None:
        return _open(question, "Triage is not finished.")
    share = 100 * gap.overall.conflicts / max(1, gap.overall.total)
    kinds = (
        f": {gap.overall.counts.get('INVERT', 0):,} are backwards, in {gap.overall.counts.get('PUNISH', 0):,} both "
        "responses are wrong"
    )
    sentence = f"of {gap.overall.total:,} pairs conflict with the new policy{kinds if gap.overall.conflicts else ''}."
    if trust.tone == "bad":
        return Card(question, f"{share:.0f} %", f"{sentence} So says a judge that is not to be trusted.", "gap", "bad")
    return Card(question, f"{share:.0f} %", sentence, "gap")


def _change(change: ChangeSection | None) -> Card:
    question = "What changed in the model?"
    if change is None:
        return _open(question, "No model has been evaluated yet.")
    row = change.overall
    tone = "good" if row.change > 0 and row.clear else "bad" if row.change < 0 and row.clear else "warn"
    if change.damage:
        sentence = (
            f"comply, by a damaged model: {'; '.join(harm.seen for harm in change.damage)}. Rely on no share here."
        )
        answer = f"Damaged, {row.base.value:.3g} → {row.realigned.value:.3g} %"
        return Card(question, answer, sentence, "change", "bad")
    sentence = (
        f"of answers to {row.prompts:,} held-out prompts comply after realignment; before, {row.base.value:.3g} % did: "
        f"{row.said(' points')}."
    )
    return Card(question, f"{row.base.value:.3g} → {row.realigned.value:.3g} %", sentence, "change", tone)


def _kept(change: ChangeSection | None, worse: Worse | None) -> Card:
    question = "Was anything lost?"
    row = next((row for row in change.by_category if row.name == "RETAIN"), None) if change else None
    if change is None or row is None:
        return _open(question, "No answer to a prompt that was right before has been compared yet.")
    tone = "bad" if change.damage else "good" if row.change >= -SMALL_LOSS else "bad" if row.clear else "warn"
    sentence = (
        f"compliance on the {row.prompts:,} prompts that the old preferences already answered well: "
        f"{row.said(' points')}."
    )
    if worse and worse.poorer:
        tone = "warn" if tone == "good" else tone
        sentence += f" But the answers are poorer: {worse.poorer_said}."
    return Card(question, f"{row.base.value:.3g} → {row.realigned.value:.3g} %", sentence, "worse", tone)


def _impact(impact: ImpactSection | None, gap: Gap | None) -> Card:
    if impact is None or not impact.pairs:
        if gap and not gap.overall.conflicts:
            return _open("Which pairs matter?", "There is no conflict to weigh.")
        return _open("Which pairs matter?", "No conflict has been weighed yet.")
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
    if not cost.stages:
        return _open("What did it cost?", "No stage is finished.")
    slowest = max(cost.stages, key=lambda stage: stage.seconds)
    sentence = f"in all; {slowest.stage} took {duration(slowest.seconds)}."
    if len(cost.stages) == 1:
        sentence = f"for {slowest.stage}."
    if cost.counted:
        sentence += f" {cost.tokens:,} tokens were counted in {', '.join(cost.counted)}."
    return Card("What did it cost?", duration(cost.seconds), sentence, "cost")
