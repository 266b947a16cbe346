"""What is wrong with a judge's settings, each by itself and with one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trace_ray.config.fields import AUTO
from trace_ray.config.judges import EndpointConfig, JudgeConfig, PromptConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.config.tree import TriageConfig
from trace_ray.errors import UserError

MOST_TEMPERATURE = 2.0
LEAST = {
    "samples": 1,
    "temperature": 0,
    "reason_tokens": 128,
    "batch_rows": 1,
    "actors": 1,
    "max_model_len": 1,
    "num_cpus": 0,
    "num_gpus": 0,
    "kv_cache_gib": 0,
}
LEAST_OF_ENDPOINT = {
    "top_logprobs": 1,
    "concurrency": 1,
    "timeout_s": 0.001,
    "max_retries": 0,
    "max_requests": 0,
    "max_tokens": 0,
    "requests_per_minute": 0,
    "tokens_per_minute": 0,
    "backoff_s": 0,
    "batch_from": 0,
    "batch_poll_s": 0.001,
    "prompt_price": 0,
    "answer_price": 0,
}
PARTS = ("policy", "judged", "question")
"""What a prompt's template must hold once each; ``examples`` may stand in it too."""


def judge_problems(where: str, judge: JudgeConfig, policy: PolicyConfig) -> Iterator[UserError]:
    """Yields what is wrong with the judge of the setting ``where``."""
    endpoint = judge.endpoint
    if judge.backend == "openai" and not endpoint.base_url.startswith(("http://", "https://")):
        remedy = "name the endpoint, such as http://127.0.0.1:8000/v1"
        yield UserError(f"{where}.endpoint.base_url", endpoint.base_url or "empty", remedy)
    most = judge.batch_rows * (1 if judge.mode == "verdict" else judge.samples)
    if judge.backend == "openai" and endpoint.batch_from > most:
        remedy = f"no call has so many requests: raise {where}.batch_rows, or give at most {most}"
        yield UserError(f"{where}.endpoint.batch_from", endpoint.batch_from, remedy)
    if judge.backend == "openai" and judge.chat_template:
        remedy = "an endpoint renders with the template that its server has: give it there, or use backend=vllm"
        yield UserError(f"{where}.chat_template", judge.chat_template[:40], remedy)
    yield from _below(f"{where}.endpoint", endpoint, LEAST_OF_ENDPOINT)
    yield from _prompt_problems(where, judge.prompt)
    yield from _at_odds(where, judge, policy)
    yield from _below(where, judge, LEAST)
    if judge.temperature > MOST_TEMPERATURE:
        yield UserError(f"{where}.temperature", judge.temperature, f"give at most {MOST_TEMPERATURE:g}, as engines do")
    if judge.max_actors < judge.actors:
        yield UserError(f"{where}.max_actors", judge.max_actors, f"give at least {where}.actors = {judge.actors}")
    if not 0 <= judge.min_mass <= 1:
        yield UserError(f"{where}.min_mass", judge.min_mass, "give a probability in [0, 1]")


def _below(where: str, section: JudgeConfig | EndpointConfig, least: Mapping[str, float]) -> Iterator[UserError]:
    for name, minimum in least.items():
        seen = getattr(section, name)
        if isinstance(seen, str):
            if seen != AUTO:
                yield UserError(f"{where}.{name}", seen, "give a number, or auto")
        elif seen < minimum:
            yield UserError(f"{where}.{name}", seen, f"give at least {minimum}")


def _prompt_problems(where: str, prompt: PromptConfig) -> Iterator[UserError]:
    name, template = f"{where}.prompt.template", prompt.template
    for part in PARTS if template else ():
        if (seen := template.count(f"{{{part}}}")) != 1:
            remedy = f"it holds {{{part}}} {seen} times: {{policy}}, {{judged}} and {{question}} stand in it once each"
            yield UserError(name, template[:40], remedy)
    if template and prompt.examples and "{examples}" not in template:
        yield UserError(name, template[:40], "it has no {examples}: write where prompt.examples are to stand")
    if bool(prompt.violates) != bool(prompt.complies):
        words = [*prompt.violates, *prompt.complies]
        yield UserError(f"{where}.prompt.violates", words, "give both kinds of answer words, violates and complies")
    for number, example in enumerate(prompt.examples):
        if not example.response.strip():
            yield UserError(f"{where}.prompt.examples[{number}].response", "empty", "give the response that is judged")


def _at_odds(where: str, judge: JudgeConfig, policy: PolicyConfig) -> Iterator[UserError]:
    prompt, form = judge.prompt, judge.prompt.form
    if judge.verdict_by == "clauses" and not policy.clauses:
        yield UserError(f"{where}.verdict_by", "clauses", "the policy has none: give policy.clauses, or use question")
    if judge.verdict_by == "clauses" and (judge.mode == "reason" or prompt.polarity != "violates"):
        remedy = "with mode=reason the answer names the clauses, and no clause is asked the contrary: use verdict_by=question"
        yield UserError(f"{where}.verdict_by", "clauses", remedy)
    if judge.mode == "reason" and prompt.polarity != "violates":
        yield UserError(
            f"{where}.prompt.polarity", prompt.polarity, "mode=reason asks for the verdict in JSON: use violates"
        )
    if judge.backend == "openai" and judge.endpoint.reasons and judge.mode == "verdict":
        remedy = "such a model gives no log-probs: use mode=reason, or mode=vote"
        yield UserError(f"{where}.mode", "verdict", remedy)
    if form != "question" and (judge.backend != "vllm" or judge.mode != "verdict" or prompt.polarity != "violates"):
        remedy = "a guard model is read in its own template: use backend=vllm, mode=verdict and polarity=violates"
        yield UserError(f"{where}.prompt.form", form, remedy)
    if form != "question" and (prompt.template or prompt.system or prompt.examples or prompt.question):
        remedy = "a guard model's own template says what is asked: leave template, system, question and examples empty"
        yield UserError(f"{where}.prompt.form", form, remedy)
    if judge.backend == "vllm" and judge.mode == "reason" and judge.reason_tokens >= judge.max_model_len:
        remedy = f"less than {where}.max_model_len = {judge.max_model_len}: the prompt needs room too"
        yield UserError(f"{where}.reason_tokens", judge.reason_tokens, remedy)


def distilled_problems(where: str, triage: TriageConfig) -> Iterator[UserError]:
    """Yields what a distilled judge in the setting ``where`` is at odds with."""
    if where != "triage.first_judge":
        yield UserError(
            f"{where}.backend", "distilled", "it learns from triage.judge: only triage.first_judge can be it"
        )
    if triage.verdict_store:
        remedy = "a distilled judge's verdicts are of this corpus alone: leave triage.verdict_store empty"
        yield UserError("triage.verdict_store", triage.verdict_store, remedy)
    for name, plain in (("calibration", "none"), ("false_invert_rate", 0.0)):
        if (seen := getattr(triage, name)) != plain:
            remedy = f"it is fitted on triage.judge's verdicts, not on those of a distilled judge: set it to {plain}"
            yield UserError(f"triage.{name}", seen, remedy)


def tells_clauses(triage: TriageConfig) -> bool:
    """Returns whether the verdicts of ``triage.judge`` say which clauses a response breaks."""
    judge = triage.judge
    return triage.clauses or judge.backend == "rules" or judge.verdict_by == "clauses" or judge.mode == "reason"


def panel_problems(triage: TriageConfig) -> Iterator[UserError]:
    """Yields what several judges of triage are at odds with."""
    combine, third = triage.combine, triage.third_judge
    if third is not None and triage.second_judge is None:
        yield UserError(
            "triage.third_judge", third.model or third.backend, "it comes beside triage.second_judge: give it too"
        )
    elif third is not None and combine == "agree":
        remedy = "so a third judge breaks no tie: use majority or dawid_skene, or leave triage.third_judge out"
        yield UserError("triage.combine", combine, remedy)
    if combine == "agree":
        return
    if triage.second_judge is None:
        yield UserError("triage.combine", combine, "there is one judge: give triage.second_judge too, or use agree")
    if triage.false_invert_rate > 0:
        remedy = (
            f"it bounds what triage.judge decides, no panel with triage.combine={combine}: set it to 0, or use agree"
        )
        yield UserError("triage.false_invert_rate", triage.false_invert_rate, remedy)
    if combine == "dawid_skene" and not triage.audit_labels and (third is None or triage.third_asked != "all"):
        remedy = "labels or three votes show what a judge is worth: give triage.audit_labels, or triage.third_asked=all"
        yield UserError("triage.combine", combine, remedy)
