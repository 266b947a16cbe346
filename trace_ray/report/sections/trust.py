"""Whether the judges can be trusted: of the corpus, and of the answers. Green only where something was measured."""

from __future__ import annotations

from dataclasses import dataclass

from trace_ray.report.limits import LEAST_VERDICTS, ONE_SIDED, kappa_tone
from trace_ray.report.names import short_model
from trace_ray.report.sections.change import ChangeSection
from trace_ray.report.sections.judge import RULES, JudgeSection

IN_PART = "In part"
"""The answer where rules leave out a clause."""


@dataclass(frozen=True)
class Trust:
    """What may be said of a judge: ``tone`` is good, warn, bad or plain; ``answer`` a word, ``sentence`` the reason."""

    tone: str
    answer: str
    sentence: str

    @property
    def reason(self) -> str:
        """Returns the sentence, whole where it goes on from a figure."""
        return self.sentence if self.sentence[:1].isupper() else f"{self.answer} {self.sentence}"


def corpus_judge(judge: JudgeSection | None) -> Trust:
    """Returns how far the judge of the corpus can be trusted."""
    if judge is None:
        return Trust("plain", "Not measured", "No pair has been judged yet.")
    if judge.refusal:
        outcome = ": the run stopped." if judge.stopped else f", which {judge.refusal.limit} does not allow."
        return Trust("bad", "Refused", f"{judge.refusal.seen}{outcome}")
    if judge.judge == RULES:
        return _rules(judge)
    if said := one_sided(judge):
        return Trust("bad", "One-sided", f"It {said}: it does not tell responses apart.")
    if judge.audit is None:
        unknown = "Threshold and calibration are another audit's." if judge.audit_file else "No labels were given."
        return Trust("warn", "Not audited", f"{unknown} Its errors here are unknown.")
    figures, held = judge.audit.figures, judge.audit.held_back
    pairs = f"{held:,} labelled pairs not used to fit" if held else f"{figures['pairs']:,} labelled pairs"
    auc = f"AUC {figures['auc']:.3f}" + (f" over all {figures['pairs']:,}" if held else "")
    sentence = f"of {pairs} get the label's category; {auc}, kappa {_said(figures['kappa'], '.2f')}."
    answer = _said(figures["agreement"], ".1%").replace("%", " %")
    return Trust(kappa_tone(figures["kappa"]), answer, sentence)


def answer_judge(change: ChangeSection | None, judge: JudgeSection | None) -> Trust:
    """Returns how far the judge of the models' answers can be trusted."""
    if change is None:
        return Trust("plain", "Not measured", "No answer of the model has been judged yet.")
    name = short_model(change.judge)
    if change.judge_is_triage_judge:
        return Trust("bad", "Circular", f"{name} judged the corpus too: its errors do not show in the result.")
    if change.judge != RULES:
        return Trust("warn", "Independent", f"{name} did not judge the corpus; it was not compared with labels.")
    if judge and judge.unchecked:
        return Trust("warn", IN_PART, f"{_checked(judge)} was not measured.")
    return Trust("good", "Exact", "The policy's own rules decide, in code.")


def doubted(answers: Trust) -> bool:
    """Returns whether a share that this judge gave is no success: it is circular, or leaves a clause out."""
    return answers.tone == "bad" or answers.answer == IN_PART


def one_sided(judge: JudgeSection) -> str:
    """Returns what a judge says of nearly every response, in words; empty where it tells them apart."""
    said = sum(judge.verdicts.values())
    for verdict, number in judge.verdicts.items():
        if said >= LEAST_VERDICTS and number >= ONE_SIDED * said:
            return f"calls {100 * number / said:.3g} % of {said:,} responses {verdict}"
    return ""


def _rules(judge: JudgeSection) -> Trust:
    if judge.unchecked:
        return Trust("warn", IN_PART, f"{_checked(judge)} was not judged.")
    if (said := one_sided(judge)) and "violating" in said:
        return Trust("warn", "Exact", f"The policy's own rules decide, in code. They {said.replace('calls', 'call')}.")
    return Trust("good", "Exact", "The policy's own rules decide, in code.")


def _checked(judge: JudgeSection) -> str:
    every = judge.clauses
    return f"Rules in code check {every - len(judge.unchecked)} of {every} clauses; {', '.join(judge.unchecked)}"


def _said(figure: float | None, form: str) -> str:
    """A kappa on labels of one class is none."""
    return "–" if figure is None else format(figure, form)  # noqa: RUF001 - as the tables do
