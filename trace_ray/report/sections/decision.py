"""What to do now: a strip of checks, one sentence, one command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from trace_ray.config import Config
from trace_ray.report.limits import SMALL_LOSS
from trace_ray.report.names import plain_category
from trace_ray.report.sections.change import ChangeSection
from trace_ray.report.sections.gap import Gap
from trace_ray.report.sections.judge import RULES, JudgeSection
from trace_ray.report.sections.problems import Problems
from trace_ray.report.sections.trust import Trust, answer_judge, corpus_judge, doubted
from trace_ray.report.sections.warnings import refused_too_many
from trace_ray.report.sections.worse import Worse
from trace_ray.runs.artifacts import CONFIG, Run
from trace_ray.runs.damage import FEW_PROMPTS

PASS, DOUBT, FAIL, OPEN = "pass", "doubt", "fail", "open"
_OF_TONE = {"good": PASS, "warn": DOUBT, "bad": FAIL, "plain": OPEN}
NEXT_RUN = "runs/next"
"""Where a command that changes a setting puts its run: this one stays as it is."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold: ``state`` is pass, doubt, fail, or open where it was not measured."""

    name: str
    state: str
    seen: str
    anchor: str


@dataclass(frozen=True)
class Decision:
    """The checks, and what follows: ``word`` is ship, fix, stop, keep or go on; ``command`` is empty where none is needed."""

    checks: Sequence[Check]
    word: str
    sentence: str
    command: str

    @property
    def sure(self) -> bool:
        """Returns whether every check passes: what is to be shipped with a doubt is not green."""
        return all(check.state == PASS for check in self.checks)


def decision(
    run: Run,
    config: Config,
    gap: Gap | None,
    judge: JudgeSection | None,
    change: ChangeSection | None,
    problems: Problems,
    worse: Worse | None = None,
) -> Decision:
    """Returns the decision over whatever is known."""
    corpus, answers = corpus_judge(judge), answer_judge(change, judge)
    checks = [
        _data(gap, problems),
        _judged("judge audited", corpus, "judge"),
        _judged("answer judge independent", answers, "change"),
        _target(change, doubted=doubted(answers)),
        _kept(change, worse),
        _prompts(change),
        _drift(change),
    ]
    named = {check.name: check for check in checks}
    return Decision(checks, *_advice(run, config, named, gap, judge, change, problems.stopped))


def _data(gap: Gap | None, problems: Problems) -> Check:
    if gap is None:
        return Check("data read", OPEN, "triage is not finished", "problems")
    share = refused_too_many(gap, problems)
    return Check("data read", FAIL if share else PASS, share or f"{gap.overall.total:,} pairs", "problems")


def _judged(name: str, trust: Trust, anchor: str) -> Check:
    seen = f"{trust.answer} as labelled" if trust.answer.endswith("%") else trust.answer.lower()
    return Check(name, _OF_TONE[trust.tone], seen, anchor if trust.tone != "plain" else "problems")


def _target(change: ChangeSection | None, *, doubted: bool) -> Check:
    """A share that is above the target passes only where its judge can be relied on."""
    if change is None:
        return Check("target reached", OPEN, "not measured", "problems")
    value = change.overall.realigned.value
    state = FAIL if value < change.target else DOUBT if doubted else PASS
    return Check("target reached", state, f"{value:.3g} % comply, {change.target:.3g} % is asked", "change")


def _kept(change: ChangeSection | None, worse: Worse | None) -> Check:
    if change is None:
        return Check("nothing lost", OPEN, "not measured", "problems")
    fell = [row for row in change.by_category if row.change < -SMALL_LOSS]
    if not fell:
        said = worse.poorer_said if worse else ""
        return Check("nothing lost", DOUBT if said else PASS, said or "no category fell", "worse")
    worst = min(fell, key=lambda row: row.change)
    state = FAIL if any(row.clear for row in fell) else DOUBT
    return Check("nothing lost", state, f"{plain_category(worst.name)} fell by {-worst.change:.1f} points", "worse")


def _prompts(change: ChangeSection | None) -> Check:
    if change is None:
        return Check("enough prompts", OPEN, "not measured", "problems")
    few = [plain_category(row.name) for row in change.by_category if row.prompts < FEW_PROMPTS]
    state = FAIL if change.overall.prompts < FEW_PROMPTS else DOUBT if few else PASS
    said = f"fewer than {FEW_PROMPTS} each: {', '.join(few)}" if few else f"{change.overall.prompts:,}"
    return Check("enough prompts", state, said, "change")


def _drift(change: ChangeSection | None) -> Check:
    name = "drift inside its budget"
    if change is None or not (change.drift_measured or change.damage):
        return Check(name, OPEN, "not measured", "problems" if change is None else "change")
    said = "; ".join(harm.measure for harm in change.damage)
    return Check(name, FAIL if said else PASS, f"beyond: {said}" if said else "within every limit", "change")


def _advice(
    run: Run,
    config: Config,
    checks: dict[str, Check],
    gap: Gap | None,
    judge: JudgeSection | None,
    change: ChangeSection | None,
    stopped: Mapping[str, str],
) -> tuple[str, str, str]:
    """Returns the word, the sentence and the command: of what stands in the way, the first thing alone."""
    failed = {name for name, check in checks.items() if check.state == FAIL}
    if "judge audited" in failed:
        remedy = judge.refusal.remedy if judge and judge.refusal else "take a stronger judge"
        reason = corpus_judge(judge).reason
        said = f"Stop: the judge of the corpus is not to be trusted. {reason} {remedy[0].upper()}{remedy[1:]}."
        return "stop", said, _again(run, "triage.judge.model=STRONGER")
    if gap and gap.overall.total and not gap.overall.conflicts:
        return "keep", "Stop: no pair conflicts with the new policy. There is nothing to realign; keep the model.", ""
    if change and "drift inside its budget" in failed:
        said = f"Stop: this model is damaged, though {_gained(change)}. Train it more gently."
        return "stop", said, _again(run, f"realign.learning_rate={config.realign.learning_rate / 2:g}")
    if change and change.complied_already and "enough prompts" not in failed:
        said = f"Stop: the model already complied with {change.overall.base.value:.3g} % before. Keep it as it is."
        return "keep", said, ""
    if "data read" in failed:
        said = f"Fix the data first: {checks['data read'].seen}."
        return "fix", said, f"trace-ray check {' '.join(map(shlex.quote, config.corpus.paths))}"
    if stopped:
        stage, mistake = list(stopped.items())[-1]
        return "fix", f"Fix what stopped {stage}, then go on: {mistake}.", _on(run, _setting(mistake, config))
    if change is None:
        done = "the corpus is judged" if gap else "the corpus is not judged yet"
        return "go on", f"Go on: {done}; the model has not been realigned and evaluated yet.", _on(run)
    return _of_model(run, config, failed, checks, change, judge.unchecked if judge else ())


def _of_model(
    run: Run,
    config: Config,
    failed: set[str],
    checks: dict[str, Check],
    change: ChangeSection,
    unchecked: Sequence[str],
) -> tuple[str, str, str]:
    """Returns the advice on an evaluated model; ``unchecked``: clauses that no rule checks, where rules judge."""
    said = _gained(change)
    if "answer judge independent" in failed:
        text = "Fix the measure: the judge of the answers judged the corpus too, so its errors do not show."
        return "fix", text, _again(run, "evaluate.judge.model=ANOTHER")
    if "nothing lost" in failed:
        text = f"Fix the model: {said}, but what was {checks['nothing lost'].seen}. Hold it more firmly."
        return "fix", text, _again(run, config.objective.firmer)
    if "target reached" in failed:
        text = f"Fix the model: {said}; {change.target:.3g} % is asked."
        return "fix", text, _again(run, f"realign.epochs={config.realign.epochs + 1:g}")
    if "enough prompts" in failed:
        text = f"Fix the measure: {said}, but of {change.overall.prompts} prompts only."
        return "fix", text, _again(run, f"corpus.holdout={min(0.5, 2 * config.corpus.holdout or 0.1):g}")
    if unchecked:
        text = f"Fix the measure: {said}, but no rule checks {', '.join(unchecked)}. Write one, or take a judge that reads."
        judges = {"triage": "JUDGE"} | ({"evaluate": "ANOTHER"} if change.judge == RULES else {})
        settings = " ".join(f"{stage}.judge.backend=vllm {stage}.judge.model={name}" for stage, name in judges.items())
        return "fix", text, _again(run, settings)
    if checks["judge audited"].state == DOUBT:
        text = (
            f"Fix the measure: {said}, but the judge of the corpus is in doubt. Label a sample and audit it with that."
        )
        return "fix", text, f"trace-ray label sample --run {run.shell_word} --out labels.html"
    doubts = [f"{name} ({check.seen})" for name, check in checks.items() if check.state in (DOUBT, OPEN)]
    doubted = f" Look first at what is in doubt: {', '.join(doubts)}." if doubts else " Every check passes."
    kept = ", and nothing was lost" if checks["nothing lost"].state == PASS else ""
    return "ship", f"Ship: {said}{kept}.{doubted}", f"vllm serve {run.shell_word}/model/merged"


def _gained(change: ChangeSection) -> str:
    row = change.overall
    return f"{row.realigned.value:.3g} % of the answers comply, before {row.base.value:.3g} %"


def _configuration(run: Run) -> str:
    """-c reads local files; where the run is in S3, its configuration is at hand on the page."""
    return shlex.quote((run.place / CONFIG).path) if run.place.is_local else "again.yaml"


def _setting(mistake: str, config: Config) -> str:
    """Returns the setting that a mistake names, with a word for its new value; empty where it names none.

    The same command would stop at the same place.
    """
    name = mistake.partition(":")[0]
    try:
        attrgetter(name)(config)
    except AttributeError:
        return ""
    return f"{name}=ANOTHER"


def _on(run: Run, setting: str = "") -> str:
    return " ".join(filter(None, ("trace-ray run -c", _configuration(run), setting, f"--run {run.shell_word}")))


def _again(run: Run, setting: str) -> str:
    return f"trace-ray run -c {_configuration(run)} {setting} --run {NEXT_RUN}"
