"""What measuring the candidates of a selection takes. Pure.

Counted as if all of it came after the training: where there is room beside it, the run is over sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trace_ray.config import Config
from trace_ray.plan.asked import Asked
from trace_ray.plan.judges import EVALUATION
from trace_ray.plan.judging import POOL_START_S, pool_time
from trace_ray.plan.rates import Rates
from trace_ray.plan.stage_row import Reserved, Resources, at_once
from trace_ray.plan.steps import candidates
from trace_ray.plan.workload import Workload

STARTS = 2
"""Of the engine: for the model before training, and for the candidates together."""


@dataclass(frozen=True)
class Selecting:
    """A selection's part of stage 3; the default is none."""

    work: str = ""
    tokens: int = 0
    reserved: Sequence[Reserved] = ()
    asked: Sequence[Asked] = ()


def selection(load: Workload, asked: Sequence[Asked], rates: Rates, config: Config, have: Resources) -> Selecting:
    """Returns what a selection adds to the training."""
    times = candidates(load, config)
    if not times:
        return Selecting()
    evaluate, policy, judge = config.evaluate, rates.policy, config.evaluate.judge
    answer = policy.answer_tokens or load.answer_tokens
    written = round(times * load.dev.number * answer)
    judges = at_once(judge.max_actors, judge.num_cpus, judge.gpus, have)
    judged = [asking.with_answers(answer) for asking in asked if asking.pool == "select"]
    judging, _ = pool_time(judged, [EVALUATION], rates, {EVALUATION: judge}, judges)
    generating = STARTS * (POOL_START_S + policy.start_s) + written / policy.answer_tokens_s
    drifting = 2 * (times - 1) * load.drift_tokens
    measuring = generating + (rates.train.start_s + drifting / rates.train.forward_tokens_s if drifting else 0.0)
    return Selecting(
        work=f", {times - 1:,} candidates on {load.dev.number:,} dev prompts",
        tokens=times * load.dev.sent + written + drifting + sum(asking.tokens for asking in judged),
        reserved=[
            Reserved(measuring, 1, evaluate.num_cpus, evaluate.gpus),
            Reserved(None if judging is None else STARTS * POOL_START_S + judging, judges, judge.num_cpus, judge.gpus),
        ],
        asked=judged,
    )
