"""From the work and the rates to seconds, memory and price of each stage. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from trace_ray.config import Config, ImpactConfig, ObjectiveConfig, PlanConfig
from trace_ray.config.gpus import in_two_passes, judging_pools
from trace_ray.config.zero import used_stage
from trace_ray.judges.backends import needs_model_for_corrections
from trace_ray.judges.spend import price, total
from trace_ray.plan.asked import Asked
from trace_ray.plan.judges import CORRECTOR, EVALUATION, FIRST, JUDGE, SECOND, THIRD, used_judges
from trace_ray.plan.judging import POOL_START_S, in_words, pool_time
from trace_ray.plan.rates import Rates, TrainRates
from trace_ray.plan.selection import selection
from trace_ray.plan.stage_row import Reserved, Resources, StageEstimate, at_once, stage_row
from trace_ray.plan.steps import epoch_steps, training_steps
from trace_ray.plan.workload import Workload
from trace_ray.runs.artifacts import STAGES

# What surrounds the measured pieces, read off runs of the demo and of the SmolLM2 example on 2 cores. A start is the
# measured start of a process with torch, transformers and the model: on a busy or slow machine all of these grow with it.
RAY_START_S = 6.0
"""Ray itself, its first worker processes and Ray Data's first operator: 5 to 8."""
IMPACT_STARTS = 3.5
"""The adapter's task, the driver's tokenizer, then each worker's model, trainable and frozen."""
TRAINER_STARTS = 8.0
"""Ray Train's controller and worker group, then DeepSpeed."""
EXPORT_STARTS = 1.5
DRIVER_GIB = 0.5
"""What the driver holds once it has loaded a tokenizer."""
TOP_K_BYTES = 8
"""Of one stored token and its log-prob; each worker reads all. A prompt's tokens are counted too: at most so much."""
TRAINER_GIB = 1.0
"""Ray Train's controller and DeepSpeed."""


def estimate(
    load: Workload,
    asked: Sequence[Asked],
    rates: Rates,
    config: Config,
    have: Resources,
    stages: Sequence[str] = STAGES,
) -> list[StageEstimate]:
    """Returns those of triage, impact, realign, evaluate and the panel's judges, on a machine where nothing is running yet."""
    figures: dict[str, Callable[[], list[StageEstimate]]] = {
        "triage": lambda: [_triage(load, asked, rates, config, have)],
        "impact": lambda: [_impact(load, rates, config.impact, config.plan, have)],
        "realign": lambda: [_realign(load, asked, rates, config, have)],
        "evaluate": lambda: [_evaluate(load, asked, rates, config, have), *_panel(load, asked, rates, config)],
    }
    made = [figure for stage in STAGES if stage in stages and stage in figures for figure in figures[stage]()]
    return [replace(stage, endpoints=_endpoints(stage.asked, config)) for stage in made]


def _endpoints(asked: Sequence[Asked], config: Config) -> float:
    """What the endpoints among the judges ask for what they are asked."""
    of = {name: judge.endpoint for name, judge in used_judges(config).items() if judge.backend == "openai"}
    prices = (price(of[asking.judge], asking.tokens, asking.written) for asking in asked if asking.judge in of)
    return total(prices) or 0.0


def _triage(load: Workload, asked: Sequence[Asked], rates: Rates, config: Config, have: Resources) -> StageEstimate:
    pools = _judging(asked, rates, config, have)
    every, reserved = [asking for pool in pools for asking in pool[0]], [pool[1] for pool in pools]
    last, memory = reserved[-1], max(pool[2] for pool in pools)
    seconds = None if last.seconds is None else RAY_START_S + last.seconds
    correcting = [asking.by_actors(last.workers) for asking in asked if asking.pool == "correct"]
    if correcting:  # once all is judged, by other actors; plain tasks where there is no model to keep
        used = used_judges(config)
        cascade = [] if in_two_passes(config.triage) else [FIRST]  # else the strong judge reads them alone
        correctors = [name for name in used if name in (JUDGE, CORRECTOR, *cascade)]
        more, other = pool_time(correcting, correctors, rates, used, last.workers)
        starting = POOL_START_S if needs_model_for_corrections(config.policy, config.triage) else 0.0
        seconds = None if seconds is None or more is None else seconds + starting + more
        memory = max(memory, other)
    every += correcting
    return stage_row(
        "triage",
        f"{load.rows:,} pairs{in_words(every)}",
        sum(asking.tokens + asking.written for asking in every),
        [*reserved[:-1], last._replace(seconds=seconds)],
        memory,
        config.plan,
        every,
    )


def _judging(
    asked: Sequence[Asked], rates: Rates, config: Config, have: Resources
) -> list[tuple[list[Asked], Reserved, float]]:
    """Returns for each pool that judges, one after another: what it asks, its actors and their time, their GiB.

    Judges that take turns are started twice: what is judged first goes through both before the corpus does.
    """
    used, pools = used_judges(config), judging_pools(config.triage)
    turns = len(pools) > 1
    found = []
    for name, pool in pools.items():
        together = [FIRST] if name == "first_judge" else [JUDGE, SECOND, THIRD, *([] if turns else [FIRST])]
        held = [judge for judge in used if judge in together]
        workers = at_once(pool.max_actors, pool.num_cpus, pool.gpus, have)
        mine = [asking.by_actors(workers) for asking in asked if asking.pool == "judge" and asking.judge in held]
        seconds, memory = pool_time(mine, held, rates, used, workers)
        look = POOL_START_S + (pool_time([], held, rates, used, 1)[0] or 0.0) if turns else 0.0
        between = POOL_START_S if turns else 0.0
        taken = None if seconds is None else seconds + look + between
        found.append((mine, Reserved(taken, workers, pool.num_cpus, pool.gpus), memory))
    return found


def shard_count(load: Workload, impact: ImpactConfig) -> int:
    """Returns how many shards are scored, and so how many parts scored/ has."""
    return max(1, math.ceil(load.rows / impact.shard_rows))


def impact_workers(load: Workload, impact: ImpactConfig, have: Resources) -> int:
    """Returns how many scoring tasks run at once."""
    return at_once(shard_count(load, impact), impact.num_cpus, impact.gpus, have)


def impact_seconds(load: Workload, rates: Rates, impact: ImpactConfig, have: Resources) -> float:
    """Returns the time of making the direction and scoring every conflict once."""
    gold = load.gold_tokens / rates.scoring.gold_tokens_s
    scores = load.scored_tokens / rates.scoring.tokens_s
    return IMPACT_STARTS * rates.train.start_s + (gold + scores) / impact_workers(load, impact, have)


def _impact(load: Workload, rates: Rates, impact: ImpactConfig, plan: PlanConfig, have: Resources) -> StageEstimate:
    workers = impact_workers(load, impact, have)
    return stage_row(
        "impact",
        f"{impact.gold_size} gold pairs, {load.trained['INVERT'] + load.trained['PUNISH']:,} conflicts scored",
        load.gold_tokens + load.scored_tokens,
        [Reserved(impact_seconds(load, rates, impact, have), workers, impact.num_cpus, impact.gpus)],
        DRIVER_GIB + rates.scoring.peak_gib * workers,
        plan,
    )


def _realign(load: Workload, asked: Sequence[Asked], rates: Rates, config: Config, have: Resources) -> StageEstimate:
    realign, train = config.realign, rates.train
    gpus = realign.gpus
    rounds, share = u2a_rounds(load, config.objective)
    samples = round(share * sum(load.trained.values()))
    steps = training_steps(samples, realign)
    epochs = steps / epoch_steps(samples, realign)
    passes = epochs * share
    stored = load.reference_tokens if realign.stores_reference else 0
    forwards = passes * (load.reference_tokens - stored)
    training = passes * load.policy_tokens / train.train_tokens_s + forwards / train.forward_tokens_s
    seconds = EXPORT_STARTS * train.start_s + rounds * (TRAINER_STARTS * train.start_s + training / realign.workers)
    seconds += (rounds - 1) * impact_seconds(load, rates, config.impact, have)
    tokens = rounds * (passes * load.policy_tokens + forwards) + (rounds - 1) * (load.gold_tokens + load.scored_tokens)
    if stored:  # the reference's distributions are made once, before training, a task a part
        tasks = at_once(shard_count(load, config.impact), realign.num_cpus, gpus, have)
        seconds += train.start_s + stored / train.forward_tokens_s / tasks
    held = TOP_K_BYTES * realign.top_k if realign.kl_reference == "top_k" else 0
    workers_gib = training_gib(train, config) + realign.workers * stored * held / 2**30
    # Ray keeps the scoring workers for a while, idle but loaded.
    idle = train.memory_gib * impact_workers(load, config.impact, have)
    measuring = selection(load, asked, rates, config, have)
    work = f"{f'{rounds} rounds of ' if rounds > 1 else ''}{samples:,} pairs, {epochs:.3g} epochs, {steps:,} steps"
    return stage_row(
        "realign",
        work + measuring.work,
        round(tokens) + stored + measuring.tokens,
        [Reserved(seconds, realign.workers, realign.num_cpus, gpus), *measuring.reserved],
        DRIVER_GIB + TRAINER_GIB + idle + workers_gib,
        config.plan,
        measuring.asked,
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
    copies = 2 if config.objective.token_terms() and realign.kl_reference == "frozen_copy" else 1
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


def _evaluate(load: Workload, asked: Sequence[Asked], rates: Rates, config: Config, have: Resources) -> StageEstimate:
    evaluate, policy = config.evaluate, rates.policy
    answer = policy.answer_tokens or load.answer_tokens
    written = round(2 * (load.prompts.number + load.attacks.number) * answer)
    judge = evaluate.judge
    judges = at_once(judge.max_actors, judge.num_cpus, judge.gpus, have)
    judged = [asking.with_answers(answer) for asking in asked if asking.pool == "evaluate"]
    judging, judge_gib = pool_time(judged, [EVALUATION], rates, {EVALUATION: judge}, judges)
    generating = 2 * (POOL_START_S + policy.start_s) + written / policy.answer_tokens_s
    drifting = rates.train.start_s + 2 * load.drift_tokens / rates.train.forward_tokens_s if load.drift_tokens else 0.0
    attacks = f" and {load.attacks.number:,} harmful requests" if load.attacks.number else ""
    counted = stage_row(
        "evaluate",
        f"{load.prompts.number:,} prompts{attacks}, 2 models, {answer:.0f} tokens an answer",
        2 * (load.prompts.sent + load.attacks.sent + load.drift_tokens)
        + written
        + sum(asking.tokens for asking in judged),
        [
            Reserved(generating + drifting, 1, evaluate.num_cpus, evaluate.gpus),
            Reserved(None if judging is None else POOL_START_S + judging, judges, judge.num_cpus, judge.gpus),
        ],
        DRIVER_GIB + max(policy.memory_gib, judge_gib),
        config.plan,
        judged,
    )
    # What a task of the harness asks is in its data sets, which nobody downloads for a plan.
    return replace(counted, left_out=", ".join(evaluate.capability.tasks))


def _panel(load: Workload, asked: Sequence[Asked], rates: Rates, config: Config) -> Iterator[StageEstimate]:
    """Yields one row a judge of `trace-ray rate panel`, which asks them one after another once there are answers."""
    answer = rates.policy.answer_tokens or load.answer_tokens
    for asking in (asking.with_answers(answer) for asking in asked if asking.pool == "panel"):
        judge = used_judges(config)[asking.judge]
        judging, memory = pool_time([asking], [asking.judge], rates, {asking.judge: judge}, 1)
        seconds = None if judging is None else RAY_START_S + judging
        work = f"after the run, by rate panel{in_words([asking])}"
        reserved = [Reserved(seconds, 1, judge.num_cpus, judge.gpus)]
        yield stage_row(asking.judge, work, asking.tokens, reserved, memory, config.plan, [asking])
