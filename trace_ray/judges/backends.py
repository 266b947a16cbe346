"""Makes judges and correctors from their settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from trace_ray.config import JudgeConfig, TriageConfig, settings
from trace_ray.config.judges import WITHOUT_MODEL
from trace_ray.config.plugins import is_plugin, plugin
from trace_ray.config.policy import PolicyConfig, clause_ids, policy_hash
from trace_ray.config.sampler import SETTING
from trace_ray.errors import UserError
from trace_ray.judges import rules
from trace_ray.judges.cascade import CascadeJudge
from trace_ray.judges.clauses import ClausewiseJudge
from trace_ray.judges.gold import GoldCorrector
from trace_ray.judges.openai_judge import OpenAIJudge
from trace_ray.judges.opinion import Corrector, Judge
from trace_ray.judges.prompt import CLAUSES_VERSION, PROMPT_VERSION
from trace_ray.judges.rules_judge import WordLimitCorrector
from trace_ray.judges.sampled import SampledCorrector
from trace_ray.judges.vllm_judge import VllmJudge
from trace_ray.storage.location import locate
from trace_ray.storage.staging import shared_settings

ReadingJudge = VllmJudge | OpenAIJudge


def writes(judge: JudgeConfig) -> bool:
    """Returns whether a judge writes corrections too: rules do not, nor do guard models."""
    return judge.backend in ("vllm", "openai") and judge.prompt.form == "question"


def make_judge(
    policy: PolicyConfig,
    config: JudgeConfig,
    correction_tokens: int = TriageConfig.corrector_tokens,
    *,
    where: str = "judge",
    by_clause: bool = False,
) -> Judge:
    """Returns the judge that ``config.backend`` names.

    Args:
        where: the setting that ``config`` comes from, for what is said of a mistake in it.
        by_clause: it will be asked for the clauses too.
    """
    if is_plugin("judges", config.backend):
        made: Judge = plugin("judges", config.backend, f"{where}.backend")(policy, config)
        return made
    by_clause = by_clause or config.verdict_by == "clauses"
    reading = _reading_judge(policy, config, correction_tokens, where, by_clause=by_clause)
    return ClausewiseJudge(reading, clause_ids(policy)) if config.verdict_by == "clauses" else reading


def _reading_judge(
    policy: PolicyConfig, config: JudgeConfig, correction_tokens: int, where: str, *, by_clause: bool
) -> ReadingJudge:
    made = OpenAIJudge if config.backend == "openai" else VllmJudge
    return made(policy, config, correction_tokens, where, with_ids=by_clause)


def make_triage_judge(policy: PolicyConfig, config: TriageConfig) -> Judge:
    """Returns the judge of triage: ``judge``, behind ``first_judge`` where there is one."""
    by_clause = names_clauses(config)
    judge = make_judge(policy, config.judge, config.corrector_tokens, where="triage.judge", by_clause=by_clause)
    if config.first_judge is None:
        return judge
    first = make_judge(policy, config.first_judge, where="triage.first_judge", by_clause=by_clause)
    return CascadeJudge(first, judge, config.escalate_from, config.escalate_to)


def corrector_kind(policy: PolicyConfig, config: TriageConfig) -> str:
    """Returns who corrects: ``none``, ``gold``, ``code``, ``judge``, ``sample`` or ``other`` (``corrector_judge``)."""
    if not config.correct:
        return "none"
    if config.gold_responses:
        return "gold"
    if config.corrector_judge is not None and config.corrector != "sample":
        return "other"
    if config.corrector != "auto":
        return config.corrector
    return "code" if rules.word_limit(policy) or not writes(config.judge) else "judge"


def check_corrector(policy: PolicyConfig, config: TriageConfig) -> None:
    """Raises UserError where ``make_corrector`` would give one that can correct nothing."""
    kind, other = corrector_kind(policy, config), config.corrector_judge
    remedy = "give triage.gold_responses or triage.corrector_judge, or set triage.correct=false"
    if kind == "code" and not rules.word_limit(policy):
        raise UserError(
            "triage.corrector", config.corrector, f"no rule of the policy has max_words to cut to: {remedy}"
        )
    if kind == "judge" and not writes(config.judge):
        mute = f"triage.judge.backend={config.judge.backend}"
        mute = (
            mute if config.judge.prompt.form == "question" else f"triage.judge.prompt.form={config.judge.prompt.form}"
        )
        raise UserError("triage.corrector", "judge", f"{mute} has no model that writes: {remedy}")
    if kind == "other" and config.corrector != "auto":
        remedy = f"triage.corrector={config.corrector} is given too: set triage.corrector_judge=null, or triage.corrector=auto"
        raise UserError("triage.corrector_judge", "given", remedy)
    if kind == "sample" and (other is None or not other.model):
        raise UserError("model.path", "empty", "corrector=sample draws answers of it: name it")
    if kind == "other" and other is not None and not writes(other):
        remedy = "it writes nothing: use vllm or openai, and no guard model"
        raise UserError("triage.corrector_judge.backend", other.backend, remedy)


def make_corrector(policy: PolicyConfig, config: TriageConfig, judge: Judge) -> Corrector | None:
    """Returns who writes corrections; ``judge`` is the triage judge, whose engine is used where it is the corrector."""
    match corrector_kind(policy, config):
        case "gold":
            return GoldCorrector(locate(config.gold_responses, shared_settings()))
        case "code":
            return WordLimitCorrector(policy)
        case "judge":
            reading = judge.strong if isinstance(judge, CascadeJudge) else judge
            reading = reading.judge if isinstance(reading, ClausewiseJudge) else reading
            assert isinstance(reading, (VllmJudge, OpenAIJudge)), "see check_corrector"
            return reading
        case "other":
            assert config.corrector_judge is not None
            return _reading_judge(policy, config.corrector_judge, config.corrector_tokens, SETTING, by_clause=False)
        case "sample":
            assert config.corrector_judge is not None, "config.sampler fills it in"
            return SampledCorrector(policy, config.corrector_judge, config.corrector_tokens, SETTING)
    return None


def judge_fingerprint(policy: PolicyConfig, config: TriageConfig, judge: JudgeConfig, model: str) -> str:
    """Returns 16 hex digits over all that a verdict depends on besides the judged text.

    Args:
        judge: the triage judge (then with its cascade), the second or the third one.
        model: what it reads with: identity of its model's files, and of the prompt around the judged text.
    """
    facts: dict[str, object] = {"policy": policy_hash(policy), "prompt": PROMPT_VERSION, "model files": model}
    by_clause = judge is config.judge and names_clauses(config)
    facts |= {"clauses": CLAUSES_VERSION if by_clause or judge.verdict_by == "clauses" else False}
    facts |= _asked(judge, "judge") | ({"clauses from": config.clauses_from} if by_clause else {})
    if judge is config.judge and config.first_judge is not None:
        facts |= _asked(config.first_judge, "first") | {"band": [config.escalate_from, config.escalate_to]}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def says_alike(judge: JudgeConfig, other: JudgeConfig) -> bool:
    """Returns whether two judges of one policy are one: the same model, asked in the same way."""
    return _asked(judge, "judge") == _asked(other, "judge")


def _asked(judge: JudgeConfig, name: str) -> dict[str, object]:
    """Its settings but the day, which every run has: where a template writes it, it is in the tokens that are read.

    Another endpoint may answer otherwise under the same model's name, so its address counts here.
    """
    address = {f"{name}.endpoint.base_url": judge.endpoint.base_url} if judge.backend == "openai" else {}
    return settings(replace(judge, chat_template_date=""), name) | address


def names_clauses(config: TriageConfig) -> bool:
    """Returns whether violating responses are judged clause by clause too: where asked, and by rules, which know them."""
    return config.clauses or (config.judge.backend == "rules" and config.first_judge is None)


def needs_model_to_judge(config: TriageConfig) -> bool:
    """Returns whether any judge is more than rules."""
    judges = (config.judge, config.first_judge, config.second_judge, config.third_judge)
    return any(judge is not None and judge.backend not in WITHOUT_MODEL for judge in judges)


def needs_model_for_corrections(policy: PolicyConfig, config: TriageConfig) -> bool:
    """Returns whether deciding needs actors with a model in them."""
    by_model = corrector_kind(policy, config) not in ("code", "gold")
    return config.correct and (needs_model_to_judge(config) or by_model)
