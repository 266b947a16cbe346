"""What each judge is asked in a run: prompts and tokens, and in words what they are only bounded by. Pure.

What a judge says decides what is asked next, and nobody knows that before a run: such work is counted at its most.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from trace_ray.config import Config, PlanConfig, TriageConfig
from trace_ray.judges.backends import corrector_kind
from trace_ray.judges.canaries import SEEDS
from trace_ray.plan.judges import EVALUATION, FIRST, JUDGE, PANEL, SECOND, THIRD, reading_judges, used_judges, writer
from trace_ray.plan.reading import Questions
from trace_ray.plan.steps import candidates
from trace_ray.plan.workload import Prompts, SampledPair, Workload, assumed_shares

PANEL_ITEMS = 100
"""What `trace-ray rate export` draws unless told otherwise, each with two answers where one run meets its base."""

UNSURE = "at most: first_judge is never sure"
TIES = "at most: the other two judges never agree"
VIOLATING = {"chosen": ("INVERT", "PUNISH"), "rejected": ("PUNISH", "RETAIN")}
"""Categories whose response violates, or may: of a RETAIN pair's rejected one they say nothing."""

Readings = Mapping[str, Questions]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One kind of question to one judge.

    Args:
        judge: its setting; what: the question; pool: the actors that ask: judge, correct, select, evaluate or panel.
        prompts: asked; tokens: of all of them; written: tokens of the judge's own answers, where these are no mere verdict.
        answers: of the prompts, how many hold a policy model's answer, whose tokens are not in ``tokens`` yet.
        each_actor: whether prompts and tokens are those of one actor, each of which asks them.
        bound: what the figures are at most, or rest on; empty = expected.
    """

    judge: str
    what: str
    pool: str
    prompts: int
    tokens: int
    written: int = 0
    answers: int = 0
    each_actor: bool = False
    bound: str = ""

    def by_actors(self, workers: int) -> Asked:
        """Returns what so many actors ask together."""
        times = workers if self.each_actor else 1
        return replace(self, prompts=times * self.prompts, tokens=times * self.tokens, each_actor=False)

    def with_answers(self, answer_tokens: float) -> Asked:
        """Returns it with the policy models' answers read, each so long."""
        return replace(self, tokens=self.tokens + round(self.answers * answer_tokens), answers=0)


def triage_asked(sample: Sequence[SampledPair], readings: Readings, config: Config) -> list[Asked]:
    """Returns what triage asks its judges, from a sample of the pairs that it will judge."""
    judges, triage = used_judges(config), config.triage
    asked = [_verdicts(sample, readings, name, bound) for name, bound in _cascade(triage)]
    others = {SECOND: "", THIRD: TIES if triage.third_asked == "ties" else ""}
    asked += [_verdicts(sample, readings, name, bound) for name, bound in others.items() if name in judges]
    if triage.clauses and config.policy.clauses:  # whoever decides a violating response is asked for its clauses
        asks = [name for name, _ in _cascade(triage) if name in readings and readings[name].clause_prompts]
        asked += [_clauses(sample, readings, name, config) for name in asks]
    if triage.judge.backend != "rules":
        asked += [_canaries(readings, name, bound) for name, bound in _cascade(triage) if name in readings]
    return asked + _corrections(sample, readings, config)


def _cascade(triage: TriageConfig) -> list[tuple[str, str]]:
    """(Judge, bound) of those that one verdict of triage's judge may need."""
    if triage.first_judge is None:
        return [(JUDGE, "")]
    if triage.first_judge.backend == "rules" and triage.escalate_from > 0 and triage.escalate_to < 1:
        return [(FIRST, "")]  # rules say 0 or 1: they are never unsure
    return [(FIRST, ""), (JUDGE, UNSURE)]


def _verdicts(sample: Sequence[SampledPair], readings: Readings, judge: str, bound: str) -> Asked:
    times, written = (readings[judge].verdict_prompts, readings[judge].written) if judge in readings else (1, 0)
    pairs = sum(pair.stands_for for pair in sample)
    return Asked(
        judge=judge,
        what="violates?",
        pool="judge",
        prompts=round(2 * times * pairs),
        written=round(2 * written * pairs),
        tokens=round(sum(pair.stands_for * pair.tokens(judge, side) for pair in sample for side in VIOLATING)),
        bound=bound,
    )


def _clauses(sample: Sequence[SampledPair], readings: Readings, judge: str, config: Config) -> Asked:
    times = readings[judge].clause_prompts
    shares = [
        (_share(pair, VIOLATING[side], config.plan), pair.tokens(judge, side)) for pair in sample for side in VIOLATING
    ]
    return Asked(
        judge=judge,
        what="which clauses?",
        pool="judge",
        prompts=round(times * sum(share for share, _ in shares)),
        tokens=round(sum(share * (times * tokens + readings[judge].clause) for share, tokens in shares if tokens)),
        bound="at most: every rejected response of RETAIN violates" + _assumed(sample),
    )


def _canaries(readings: Readings, judge: str, bound: str) -> Asked:
    return Asked(
        judge=judge,
        what="canaries",
        pool="judge",
        prompts=readings[judge].canary_prompts,
        tokens=readings[judge].canaries,
        each_actor=True,
        bound=bound or f"at most: {SEEDS} seeds, tried by every actor",
    )


def _corrections(sample: Sequence[SampledPair], readings: Readings, config: Config) -> list[Asked]:
    """Drafts of PUNISH pairs and the verdicts on them: by triage's judge once more, in actors of their own."""
    name, limit = writer(config), config.triage.corrector_tokens
    other = config.triage.corrector_judge
    each = other.samples if other is not None and corrector_kind(config.policy, config.triage) == "sample" else 1
    if not config.triage.correct:
        return []
    punished = [(_share(pair, ("PUNISH",), config.plan), pair) for pair in sample]
    if not name:  # written by code or by people, so known: where there is none, nobody is asked
        drafted = [(share, pair) for share, pair in punished if "corrected" in pair.responses]
        return [_verdicts_on_drafts(drafted, judge, bound, None) for judge, bound in _cascade(config.triage)]
    assumed = _assumed(sample)
    lengths = [(share, pair.tokens(name, "chosen")) for share, pair in punished]
    drafts = Asked(
        judge=name,
        what="corrections",
        pool="correct",
        prompts=round(sum(share for share, _ in punished)),
        tokens=round(sum(share * (tokens + readings[name].correct) for share, tokens in lengths if tokens)),
        written=round(each * limit * sum(share for share, _ in punished)),
        bound=f"at most: triage.corrector_tokens each{assumed}",
    )
    judged = [(each * share, pair) for share, pair in punished]
    verdicts = [
        _verdicts_on_drafts(judged, judge, bound or f"at most: triage.corrector_tokens each{assumed}", limit)
        for judge, bound in _cascade(config.triage)
    ]
    return [drafts, *verdicts]


def _verdicts_on_drafts(
    punished: Sequence[tuple[float, SampledPair]], judge: str, bound: str, draft_tokens: int | None
) -> Asked:
    """Args: draft_tokens: of each draft; None = the pairs hold them."""

    def length(pair: SampledPair) -> int:
        if draft_tokens is None:
            return pair.tokens(judge, "corrected")
        return pair.tokens(judge, "prompt") and pair.tokens(judge, "prompt") + draft_tokens

    return Asked(
        judge=judge,
        what="corrections violate?",
        pool="correct",
        prompts=round(sum(share for share, _ in punished)),
        tokens=round(sum(share * length(pair) for share, pair in punished)),
        bound=bound,
    )


def evaluation_asked(load: Workload, config: Config) -> list[Asked]:
    """Returns what the evaluation asks its judge, and the panel, which a run itself never asks, its own."""
    asked = [
        _answers(EVALUATION, what, "evaluate", prompts, config, 2 * prompts.number)
        for what, prompts in (("answers violate?", load.prompts), ("attacked answers violate?", load.attacks))
        if prompts.number
    ]
    if times := candidates(load, config):
        asked.append(_answers(EVALUATION, "dev answers violate?", "select", load.dev, config, times * load.dev.number))
    items = min(PANEL_ITEMS, load.prompts.number)
    panel = [name for name in used_judges(config) if name.startswith(PANEL)]
    votes = [_answers(name, "which answer is better?", "panel", load.prompts, config, 2 * items) for name in panel]
    bound = f"at most: {PANEL_ITEMS} items, two answers each"
    return asked + [replace(vote, bound=bound) for vote in votes]


def _answers(judge: str, what: str, pool: str, prompts: Prompts, config: Config, answers: int) -> Asked:
    reads = judge in reading_judges(config)
    mean = prompts.read.get(judge, 0) / max(1, prompts.number)
    return Asked(
        judge=judge,
        what=what,
        pool=pool,
        prompts=answers,
        tokens=round(answers * mean) if reads else 0,
        answers=answers if reads else 0,
    )


def _share(pair: SampledPair, categories: Collection[str], plan: PlanConfig) -> float:
    """Pairs of some categories that this one stands for."""
    shares = assumed_shares(plan) if pair.category is None else {pair.category: 1.0}
    return pair.stands_for * sum(share for name, share in shares.items() if name in categories)


def _assumed(sample: Sequence[SampledPair]) -> str:
    """In words, that the plan's shares of the categories are taken for the judge's verdicts."""
    return ", shares as plan.* assumes" if any(pair.category is None for pair in sample) else ""
