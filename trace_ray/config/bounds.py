"""The values that numbers of the configuration may have: one row a setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from trace_ray.config import Config
from trace_ray.config.fields import AUTO, leaves
from trace_ray.config.policy import PolicyConfig
from trace_ray.errors import UserError
from trace_ray.objective.losses import shared_numbers

Bound = tuple[Callable[[Any], bool], str]
"""Whether a value is allowed, and what to give instead."""


def _least(low: float, unit: str = "") -> Bound:
    return lambda value: value >= low, f"give at least {low:g}{unit}"


def _or_more(what: str = "0 or more") -> Bound:
    return lambda value: value >= 0, f"give {what}"


def _positive(what: str) -> Bound:
    return lambda value: value > 0, f"give a {what}"


_GPUS: Bound = (
    lambda value: value == AUTO or (not isinstance(value, str) and value >= 0),
    "give a number of GPUs, a share of one, or auto",
)
_TOKENS: Bound = (
    lambda value: value == AUTO or (not isinstance(value, str) and value >= 1),
    "give a number of tokens, at least 1, or auto",
)
_SHARE: Bound = (lambda value: 0 <= value < 1, "give a share in [0, 1)")
_PART: Bound = (lambda value: 0 <= value <= 1, "give a share in [0, 1]")
_RATE: Bound = _or_more("tokens a second, or 0 to have it measured")
_AREA: Bound = (lambda value: 0 <= value <= 1, "give an area in [0, 1]; 0.5 is chance")
_KAPPA: Bound = (lambda value: 0 <= value <= 1, "give a kappa in [0, 1]; 0 is no limit")
_PROBABILITY: Bound = (lambda value: 0 < value < 1, "give a probability in (0, 1)")

BOUNDS: dict[str, Bound] = {
    "corpus.holdout": _SHARE,
    "corpus.limit": _or_more("the number of rows to read, or 0 for all"),
    "corpus.min_margin": _or_more("a difference of scores, or 0 for any"),
    "corpus.max_chars": _or_more("a number of characters, or 0 for no limit"),
    "corpus.rows_per_part": _least(1),
    "corpus.noise.seed": _or_more(),
    "model.max_length": _least(8, " tokens"),
    "triage.threshold": _PROBABILITY,
    "triage.clauses_from": _PART,
    "triage.tie_at": _PROBABILITY,
    "triage.abstain_band": (lambda value: 0 <= value < 0.5, "give a half-width in [0, 0.5)"),
    "triage.distil_pairs": _least(100, " pairs"),
    "triage.distil_agreement": _PROBABILITY,
    "triage.audit_rows": _least(1, " pair"),
    "triage.audit_sample": _or_more("a number of pairs, or 0 for none"),
    "triage.min_kappa": _KAPPA,
    "triage.max_one_sided": _PART,
    "triage.max_endpoint_errors": _PART,
    "triage.false_invert_rate": _SHARE,
    "triage.confidence": _PROBABILITY,
    "triage.max_unreadable": _PART,
    "triage.min_canary_pass": _PART,
    "triage.corrector_tokens": _least(1),
    "triage.max_judge_deaths": _or_more(),
    "triage.min_auc": _AREA,
    "impact.gold_size": _least(3, ": a third for each category"),
    "impact.gamma": _positive("positive damping"),
    "impact.curvature_pairs": _least(1),
    "impact.cg_tolerance": (lambda value: 0 < value < 1, "give a share of |g_J| in (0, 1)"),
    "impact.cg_iterations": _least(1),
    "impact.shard_rows": _least(1),
    "impact.batch_tokens": _TOKENS,
    "impact.part_bytes": _least(1),
    "impact.num_cpus": _or_more("a number of cores"),
    "impact.num_gpus": _GPUS,
    "impact.max_retries": _least(-1, ", which stands for retries without end"),
    "impact.seed": _or_more(),
    "impact.retain_per_conflict": _or_more(),
    "objective.alpha_kl": _or_more(),
    "objective.kl_target": _or_more("a KL in nats a token, or 0 to leave alpha_kl as it is"),
    "objective.kl_step": _positive("positive step"),
    **{f"objective.{p.name}": (p.holds, p.remedy) for p in shared_numbers()},
    "objective.u2a_pairs": _least(1, " pair"),
    "objective.u2a_rounds": _least(1, " round"),
    "lora.r": (lambda value: value > 0, "give a rank of at least 1"),
    "lora.alpha": _positive("positive scale"),
    "lora.dropout": (lambda value: 0 <= value < 1, "give a probability in [0, 1)"),
    "report.target": (lambda value: 0 <= value <= 100, "give a percentage"),
    "realign.learning_rate": _positive("positive rate"),
    "realign.epochs": _least(1),
    "realign.batch": _least(1, " pair a step"),
    "realign.micro_tokens": _TOKENS,
    "realign.length_window": _least(1, " step"),
    "realign.max_steps": _or_more("a number of steps, or 0 for no limit"),
    "realign.epsilon": _or_more("a gradient norm, or 0 to never stop early"),
    "realign.epsilon_steps": _least(1, " step"),
    "realign.top_k": _least(1, " token"),
    "realign.workers": _least(1),
    "realign.num_cpus": _or_more("a number of cores"),
    "realign.zero_stage": (lambda value: value in (0, 1, 2, 3), "give a ZeRO stage: 0, 1, 2 or 3"),
    "realign.checkpoint_steps": _least(1),
    "realign.keep_checkpoints": _least(1),
    "realign.warmup_steps": _or_more("a number of steps, or 0 for no warm-up"),
    "realign.forward_overhead": _or_more("a number of tokens"),
    "realign.weight_decay": _or_more(),
    "realign.max_grad_norm": _or_more("a norm, or 0 for no clipping"),
    "realign.max_displacement": _or_more("nats of a response, or 0 for no limit"),
    "realign.seed": _or_more(),
    "realign.max_failures": _least(-1, ", which stands for restarts without end"),
    "realign.select.steps": _or_more("steps between two candidates, or 0 to keep the last step"),
    "realign.select.prompts": _least(1, " prompt"),
    "realign.select.seed": _or_more(),
    "realign.select.patience": _or_more("a number of candidates, or 0 to train to the end"),
    "realign.select.max_drift": _or_more("nats a token, or 0 for no limit"),
    "realign.select.max_category_loss": (lambda value: 0 <= value <= 100, "give points of compliance in [0, 100]"),
    "ray.stall_minutes": _or_more("minutes, or 0 to wait for ever"),
    "ray.max_cost": _or_more("a sum, or 0 for no limit"),
    "ray.local_cpus": _or_more("a number of cores, or 0 for all of this machine"),
    "evaluate.max_unreadable": _PART,
    "evaluate.min_auc": _AREA,
    "evaluate.min_kappa": _KAPPA,
    "evaluate.min_canary_pass": _PART,
    "evaluate.prompts": _or_more("a number of prompts, or 0 for all"),
    "evaluate.max_new_tokens": _least(1),
    "evaluate.batch_tokens": _TOKENS,
    "evaluate.num_cpus": _or_more("a number of cores"),
    "evaluate.num_gpus": _GPUS,
    "evaluate.kv_cache_gib": _positive("positive size"),
    "evaluate.seed": _or_more(),
    "evaluate.resamples": _least(100),
    "evaluate.drift_pairs": _or_more(),
    "evaluate.attacks.limit": _or_more(),
    "evaluate.capability.limit": _or_more("a number of documents, or 0 for all"),
    "evaluate.capability.batch_size": _least(1),
    "report.top_pairs": _or_more(),
    "report.sample": _or_more(),
    "report.examples": _or_more(),
    "report.max_drift": _or_more("nats a token, or 0 for no limit"),
    "report.max_perplexity": _or_more("a multiple of the base's, or 0 for no limit"),
    "report.min_diversity": (lambda value: 0 <= value <= 1, "give a part of the base's in [0, 1]; 0 is no limit"),
    "rounds.number": _least(1, ", which is the run alone"),
    "rounds.prompts": _or_more("a number of prompts, or 0 for all"),
    "rounds.samples": _least(1, " answer"),
    "rounds.temperature": (
        lambda value: 0 < value <= 2,
        "give a temperature in (0, 2]: at 0 every answer is the greedy one",
    ),
    "rounds.top_p": (lambda value: 0 < value <= 1, "give a probability in (0, 1]"),
    "rounds.seed": _or_more(),
    "plan.sample_rows": _least(1, " pair"),
    "plan.invert_share": _PART,
    "plan.punish_share": _PART,
    "plan.judge_tokens_s": _RATE,
    "plan.answer_tokens_s": _RATE,
    "plan.forward_tokens_s": _RATE,
    "plan.train_tokens_s": _RATE,
    "plan.cpus": _or_more("a number of cores, or 0 for what there is"),
    "plan.gpus": _or_more("a number of GPUs, or 0 for what there is"),
    "plan.gpu_gib": _or_more("GiB of a card, or 0 for this machine's"),
    "plan.cpu_hour_price": _or_more("a price of 0 or more"),
    "plan.gpu_hour_price": _or_more("a price of 0 or more"),
    "storage.max_attempts": _least(1),
    "storage.connect_timeout_s": _positive("positive number of seconds"),
    "storage.read_timeout_s": _positive("positive number of seconds"),
}


def bound_problems(config: Config) -> Iterator[UserError]:
    """Yields every number that is out of its bounds, or at odds with another."""
    endless = list(_not_finite(config))
    yield from endless
    yield from _bad_words(config.policy)
    said = {problem.where for problem in endless}
    for name, (holds, remedy) in BOUNDS.items():
        value = attrgetter(name)(config)
        if name not in said and not holds(value):
            yield UserError(name, value, remedy)
    yield from _at_odds(config)


def _not_finite(config: Config) -> Iterator[UserError]:
    for name, value, _ in leaves(config):
        for number in value.values() if isinstance(value, dict) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                yield UserError(name, number, "give a finite number")


def _bad_words(policy: PolicyConfig) -> Iterator[UserError]:
    """The limits of the policy's rules, which stand in a list and so have no row in BOUNDS."""
    for clause in policy.clauses:
        for name in ("max_words", "min_words"):
            words = getattr(clause.rule, name) if clause.rule is not None else 0
            if words < 0:
                remedy = "give a number of words, or 0 for no limit"
                yield UserError(f"policy.clauses[{clause.id}].rule.{name}", words, remedy)


def _at_odds(config: Config) -> Iterator[UserError]:
    noise, triage, impact, realign = config.corpus.noise, config.triage, config.impact, config.realign
    if noise.flip < 0 or noise.swap < 0 or noise.flip + noise.swap > 1:
        said = f"flip {noise.flip}, swap {noise.swap}"
        yield UserError("corpus.noise", said, "give rates of 0 or more that sum to at most 1")
    if not 0 <= triage.escalate_from <= triage.escalate_to <= 1:
        remedy = "give probabilities with escalate_from <= escalate_to"
        yield UserError("triage.escalate_from", triage.escalate_from, remedy)
    room = min(triage.threshold, 1 - triage.threshold)
    if 0 < triage.threshold < 1 and room <= triage.abstain_band < 0.5:
        remedy = f"around triage.threshold = {triage.threshold:g} one side is left undecided: give less than {room:g}"
        yield UserError("triage.abstain_band", triage.abstain_band, remedy)
    if (impact.score_norm, impact.parameters) == ("cosine", "full"):
        remedy = "gradient norms are known for impact.parameters=lora only: use none or per_token"
        yield UserError("impact.score_norm", impact.score_norm, remedy)
    if realign.workers >= 1 and not 0 <= realign.min_workers <= realign.workers:
        remedy = f"give 0, or at most realign.workers = {realign.workers}"
        yield UserError("realign.min_workers", realign.min_workers, remedy)
    shares = (config.plan.invert_share, config.plan.punish_share)
    if all(0 <= share <= 1 for share in shares) and sum(shares) > 1:
        remedy = (
            f"with plan.punish_share = {shares[1]:g} they are more than all pairs: give shares that sum to at most 1"
        )
        yield UserError("plan.invert_share", shares[0], remedy)
