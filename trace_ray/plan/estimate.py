"""From the work and the rates to seconds, memory and price of each stage. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trace_ray.config import Config, JudgeConfig
from trace_ray.plan.rates import BARE_GIB, EngineRates, Rates
from trace_ray.plan.workload import Workload

# What surrounds the measured pieces, read off two runs of the demo on 2 cores. A start is the measured start of a process
# with torch, transformers and the model: on a busy or slow machine all of these grow with it.
RAY_START_S = 10.0
"""Ray itself, its first worker processes and Ray Data's first operator."""
POOL_START_S = 3.0
"""A pool of actors on a Ray that is up."""
IMPACT_STARTS = 3.5
"""The adapter's task, the driver's tokenizer, then each worker's model, trainable and frozen."""
TRAINER_STARTS = 8.0
"""Ray Train's controller and worker group, then DeepSpeed."""
EXPORT_STARTS = 1.5
RULES_RESPONSES_S = 10_000.0
SCORE_FORWARDS = 3.4
"""Cost of a score in forwards (FINDINGS.md)."""
RAY_GIB = 1.1
"""Ray's own processes, its object store and a fresh driver."""
DRIVER_GIB = 0.5
"""What the driver holds once it has loaded a tokenizer."""
TRAINER_GIB = 1.3
"""Ray Train's controller and DeepSpeed."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster has."""

    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """One stage: what it has to do, how long it takes, what it holds.

    Args:
        work: in words; tokens: all that pass a model.
        seconds: wall clock, None where a speed is not known; workers: at once.
        memory_gib: peak of all processes together.
        cpu_hours, gpu_hours: reserved; price: of both; None as ``seconds`` is.
    """

    stage: str
    work: str
    tokens: int
    seconds: float | None
    workers: int
    memory_gib: float
    cpu_hours: float | None
    gpu_hours: float | None
    price: float | None


def estimate(load: Workload, rates: Rates, config: Config, have: Resources) -> list[StageEstimate]:
    """Returns triage, impact, realign and evaluate in order, run on a machine where nothing is running yet."""
    return [
        _triage(load, rates, config, have),
        _impact(load, rates, config, have),
        _realign(load, rates, config, have),
        _evaluate(load, rates, config, have),
    ]


def at_once(most: int, num_cpus: float, num_gpus: float, have: Resources) -> int:
    """Returns how many workers of a size run together, at most ``most`` and at least one."""
    fits = [math.floor(have.cpus / num_cpus)] if num_cpus else []
    fits += [math.floor(have.gpus / num_gpus)] if num_gpus else []
    return max(1, min([most, *fits]))


def _triage(load: Workload, rates: Rates, config: Config, have: Resources) -> StageEstimate:
    judge = config.triage.judge
    workers = at_once(judge.max_actors, judge.num_cpus, judge.num_gpus, have)
    responses = 2 * load.rows
    judging, memory = _judging(responses, load.judged_tokens, judge, rates.judge, workers)
    return _stage(
        "triage",
        f"{load.rows:,} pairs, {responses:,} responses judged",
        load.judged_tokens,
        None if judging is None else RAY_START_S + judging,
        workers,
        memory,
        judge.num_cpus,
        judge.num_gpus,
        config,
    )


def _judging(
    responses: int, tokens: int, judge: JudgeConfig, rates: EngineRates | None, workers: int
) -> tuple[float | None, float]:
    """(Seconds, GiB) of judging with a pool; no seconds for an endpoint whose speed is not known."""
    if rates is None:
        return responses / RULES_RESPONSES_S / workers if judge.backend == "rules" else None, BARE_GIB * workers
    return rates.start_s + tokens / rates.prompt_tokens_s / workers, rates.memory_gib * workers


def impact_workers(load: Workload, config: Config, have: Resources) -> int:
    """Returns how many scoring tasks run at once."""
    impact = config.impact
    shards = max(1, math.ceil(load.rows / impact.shard_rows))
    return at_once(shards, impact.num_cpus, impact.num_gpus, have)


def _impact(load: Workload, rates: Rates, config: Config, have: Resources) -> StageEstimate:
    impact, train = config.impact, rates.train
    workers = impact_workers(load, config, have)
    gold = load.gold_tokens / train.train_tokens_s
    scores = load.scored_tokens * SCORE_FORWARDS / train.forward_tokens_s
    seconds = IMPACT_STARTS * train.start_s + (gold + scores) / workers
    return _stage(
        "impact",
        f"{config.impact.gold_size} gold pairs, {load.trained['INVERT'] + load.trained['PUNISH']:,} conflicts scored",
        load.gold_tokens + load.scored_tokens,
        seconds,
        workers,
        DRIVER_GIB + train.memory_gib * workers,
        impact.num_cpus,
        impact.num_gpus,
        config,
    )


def _realign(load: Workload, rates: Rates, config: Config, have: Resources) -> StageEstimate:
    realign, train = config.realign, rates.train
    samples = sum(load.trained.values())
    epoch = max(1, math.ceil(samples / realign.batch))
    steps = min(realign.epochs * epoch, realign.max_steps or math.inf)
    epochs = steps / epoch
    work = load.policy_tokens / train.train_tokens_s + load.reference_tokens / train.forward_tokens_s
    training = epochs * work / realign.workers
    seconds = (TRAINER_STARTS + EXPORT_STARTS) * train.start_s + training
    # Ray keeps the scoring workers for a while, idle but loaded.
    idle = train.memory_gib * impact_workers(load, config, have)
    return _stage(
        "realign",
        f"{samples:,} pairs, {epochs:.3g} epochs, {steps:,} steps",
        round(epochs * (load.policy_tokens + load.reference_tokens)),
        seconds,
        realign.workers,
        DRIVER_GIB + TRAINER_GIB + idle + train.train_gib * realign.workers,
        realign.num_cpus,
        1.0 if realign.use_gpu else 0.0,
        config,
    )


def _evaluate(load: Workload, rates: Rates, config: Config, have: Resources) -> StageEstimate:
    evaluate, policy = config.evaluate, rates.policy
    answer = policy.answer_tokens or load.answer_tokens
    answers = 2 * load.prompts
    judge = evaluate.judge
    judges = at_once(judge.max_actors, judge.num_cpus, judge.num_gpus, have)
    # The judge reads policy, prompt and answer; the policy's tokens are cached.
    judged = round(2 * load.prompt_tokens + answers * answer)
    judging, judge_gib = _judging(answers, judged, judge, rates.evaluation_judge, judges)
    generating = 2 * (POOL_START_S + policy.start_s) + answers * answer / policy.answer_tokens_s
    return _stage(
        "evaluate",
        f"{load.prompts:,} prompts, 2 models, {answer:.0f} tokens an answer",
        2 * load.prompt_tokens + round(answers * answer),
        None if judging is None else generating + POOL_START_S + judging,
        1,
        DRIVER_GIB + max(policy.memory_gib, judge_gib),
        evaluate.num_cpus,
        evaluate.num_gpus,
        config,
    )


def _stage(
    stage: str,
    work: str,
    tokens: int,
    seconds: float | None,
    workers: int,
    memory_gib: float,
    num_cpus: float,
    num_gpus: float,
    config: Config,
) -> StageEstimate:
    hours = None if seconds is None else seconds / 3600 * workers
    an_hour = num_cpus * config.plan.cpu_hour_price + num_gpus * config.plan.gpu_hour_price
    return StageEstimate(
        stage=stage,
        work=work,
        tokens=tokens,
        seconds=seconds,
        workers=workers,
        memory_gib=RAY_GIB + memory_gib,
        cpu_hours=None if hours is None else hours * num_cpus,
        gpu_hours=None if hours is None else hours * num_gpus,
        price=None if hours is None else hours * an_hour,
    )


def total(stages: list[StageEstimate], of: Callable[[StageEstimate], float | None]) -> float:
    """Returns the sum of one figure over the stages where it is known."""
    return sum(of(stage) or 0.0 for stage in stages)
