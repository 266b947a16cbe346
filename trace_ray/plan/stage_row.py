"""A stage's row of the plan: what it has to do, how long it takes, what it holds and costs. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trace_ray.config import PlanConfig
from trace_ray.plan.asked import Asked

RAY_GIB = 0.7
"""Ray's own processes, its object store and a fresh driver."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster has."""

    cpus: float
    gpus: float


class Reserved(NamedTuple):
    """Workers of one size, reserved for some seconds; None = not known for how many."""

    seconds: float | None
    workers: int
    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """One stage: what it has to do, how long it takes, what it holds.

    Args:
        work: in words; tokens: all that pass a model.
        asked: what its judges are asked, of which ``tokens`` is the sum too.
        seconds: wall clock, None where a speed is not known; workers: at once.
        memory_gib: peak of all processes together.
        cpu_hours, gpu_hours: reserved; price: of both; None as ``seconds`` is.
        endpoints: what the endpoints among them ask for that, 0 where none has a price; no part of ``price``.
        left_out: work of the stage that none of these figures count.
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
    asked: Sequence[Asked] = ()
    endpoints: float = 0.0
    left_out: str = ""


def stage_row(
    stage: str,
    work: str,
    tokens: int,
    reserved: Sequence[Reserved],
    memory_gib: float,
    prices: PlanConfig,
    asked: Sequence[Asked] = (),
) -> StageEstimate:
    """Returns a stage's row.

    Args:
        reserved: one after another; a stage with one of unknown length has no time.
    """
    lengths = [held.seconds for held in reserved if held.seconds is not None]
    known = len(lengths) == len(reserved)
    hours = [((held.seconds or 0.0) / 3600 * held.workers, held) for held in reserved]
    cpu_hours = sum(number * held.num_cpus for number, held in hours)
    gpu_hours = sum(number * held.num_gpus for number, held in hours)
    return StageEstimate(
        stage=stage,
        work=work,
        tokens=tokens,
        seconds=sum(lengths) if known else None,
        workers=max(held.workers for held in reserved),
        memory_gib=RAY_GIB + memory_gib,
        cpu_hours=cpu_hours if known else None,
        gpu_hours=gpu_hours if known else None,
        price=cpu_hours * prices.cpu_hour_price + gpu_hours * prices.gpu_hour_price if known else None,
        asked=asked,
    )


def at_once(most: int, num_cpus: float, num_gpus: float, have: Resources) -> int:
    """Returns how many workers of a size run together, at most ``most`` and at least one."""
    fits = [math.floor(have.cpus / num_cpus)] if num_cpus else []
    fits += [math.floor(have.gpus / num_gpus)] if num_gpus else []
    return max(1, min([most, *fits]))


def total(stages: list[StageEstimate], of: Callable[[StageEstimate], float | None]) -> float:
    """Returns the sum of one figure over the stages where it is known."""
    return sum(of(stage) or 0.0 for stage in stages)
