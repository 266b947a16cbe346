"""From the work and the rates to seconds, memory and price of each stage. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trace_ray.config import Config, JudgeConfig, ObjectiveConfig
from trace_ray.plan.rates import BARE_GIB, EngineRates, Rates, TrainRates
from trace_ray.plan.workload import Workload
from trace_ray.realign.zero import used_stage

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
TOP_K_BYTES = 8
"""Of one stored token and its log-prob; each worker reads all. A prompt's tokens are counted too: at most so much."""
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


def shard_count(load: Workload, config: Config) -> int:
    """Returns how many shards are scored, and so how many parts scored/ has."""
    return max(1, math.ceil(load.rows / config.impact.shard_rows))


def impact_workers(load: Workload, config: Config, have: Resources) -> int:
    """Returns how many scoring tasks run at once."""
    return at_once(shard_count(load, config), config.impact.num_cpus, config.impact.num_gpus, have)


def impact_seconds(load: Workload, train: TrainRates, config: Config, have: Resources) -> float:
    """Returns the time of making the direction and scoring every conflict once."""
    gold = load.gold_tokens / train.train_tokens_s
    scores = load.scored_tokens * SCORE_FORWARDS / train.forward_tokens_s
    return IMPACT_STARTS * train.start_s + (gold + scores) / impact_workers(load, config, have)


def _impact(load: Workload, rates: Rates, config: Config, have: Resources) -> StageEstimate:
    impact, train = config.impact, rates.train
    workers = impact_workers(load, config, have)
    return _stage(
        "impact",
        f"{config.impact.gold_size} gold pairs, {load.trained['INVERT'] + load.trained['PUNISH']:,} conflicts scored",
        load.gold_tokens + load.scored_tokens,
        impact_seconds(load, train, config, have),
        workers,
        DRIVER_GIB + train.memory_gib * workers,
        impact.num_cpus,
        impact.num_gpus,
        config,
    )


def _realign(load: Workload, rates: Rates, config: Config, have: Resources) -> StageEstimate:
    realign, train = config.realign, rates.train
    gpus = 1.0 if realign.use_gpu else 0.0
    rounds, share = u2a_rounds(load, config.objective)
    samples = round(share * sum(load.trained.values()))
    epoch = max(1, math.ceil(samples / realign.batch))
    steps = min(realign.epochs * epoch, realign.max_steps or math.inf)
    epochs = steps / epoch
    passes = epochs * share
    stored = load.reference_tokens if realign.kl_reference == "top_k" else 0
    forwards = passes * (load.reference_tokens - stored)
    training = passes * load.policy_tokens / train.train_tokens_s + forwards / train.forward_tokens_s
    seconds = EXPORT_STARTS * train.start_s + rounds * (TRAINER_STARTS * train.start_s + training / realign.workers)
    seconds += (rounds - 1) * impact_seconds(load, train, config, have)
    tokens = rounds * (passes * load.policy_tokens + forwards) + (rounds - 1) * (load.gold_tokens + load.scored_tokens)
    if stored:  # the reference's distributions are made once, before training, a task a part
        tasks = at_once(shard_count(load, config), realign.num_cpus, gpus, have)
        seconds += train.start_s + stored / train.forward_tokens_s / tasks
    workers_gib = training_gib(train, config) + realign.workers * stored * TOP_K_BYTES * realign.top_k / 2**30
    # Ray keeps the scoring workers for a while, idle but loaded.
    idle = train.memory_gib * impact_workers(load, config, have)
    return _stage(
        "realign",
        f"{f'{rounds} rounds of ' if rounds > 1 else ''}{samples:,} pairs, {epochs:.3g} epochs, {steps:,} steps",
        round(tokens) + stored,
        seconds,
        realign.workers,
        DRIVER_GIB + TRAINER_GIB + idle + workers_gib,
        realign.num_cpus,
        gpus,
        config,
    )


def training_gib(train: TrainRates, config: Config) -> float:
    """Returns the peak of all training workers together; one was measured, without optimizer and unsharded.

    AdamW holds two moments of what it trains and, unless the weights serve, a float32 copy. ZeRO 1 shares these among the
    workers, 2 the gradients too, 3 the weights and a frozen copy of them, which each worker first loads whole. Rank 0
    gathers checkpoints whole, while no gradient is held. DeepSpeed's own buffers are not counted.
    """
    realign = config.realign
    zero = used_stage(realign.zero_stage, config.model.dtype)
    size = 4 if config.model.dtype == "float32" else 2
    own_master = size == 4 and zero in (0, 3)
    weights, gradients = size * train.parameters / 2**30, size * train.trained / 2**30
    adam, gathered = (8 if own_master else 12) * train.trained / 2**30, 12 * train.trained / 2**30
    copies = 2 if config.objective.RETAIN.loss == "kl" and realign.kl_reference == "frozen_copy" else 1
    away = [1 - 1 / realign.workers if zero >= stage else 0.0 for stage in range(4)]
    loaded = train.memory_gib + (copies - 1) * weights
    held = loaded - copies * weights * away[3] + adam * (1 - away[1])
    peak = max(loaded, held + train.train_gib - train.memory_gib - gradients * away[2])
    saving = held + gradients + (gathered if realign.whole_checkpoints else 0.0)
    return realign.workers * peak + max(0.0, saving - peak)


def u2a_rounds(load: Workload, objective: ObjectiveConfig) -> tuple[int, float]:
    """(Trainings, share of the pairs that each trains on): u2a trains on a few, and scores all again between rounds."""
    if objective.weights != "u2a":
        return 1, 1.0
    return objective.u2a_rounds, min(1.0, objective.u2a_pairs / max(1, sum(load.trained.values())))


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
