"""How long a training is in steps, and how many of them are candidates. Pure."""

from __future__ import annotations

import math

from trace_ray.config import Config, RealignConfig
from trace_ray.plan.workload import Workload


def epoch_steps(samples: int, realign: RealignConfig) -> int:
    """Returns the steps in which every sample is shown once."""
    return max(1, math.ceil(samples / realign.batch))


def training_steps(samples: int, realign: RealignConfig) -> int:
    """Returns the steps of a training on so many samples, none of which stops early.

    >>> training_steps(10, RealignConfig(batch=4, epochs=2)), training_steps(10, RealignConfig(batch=4, max_steps=5, epochs=2))
    (6, 5)
    """
    steps = realign.epochs * epoch_steps(samples, realign)
    return min(steps, realign.max_steps) if realign.max_steps else steps


def candidates(load: Workload, config: Config) -> int:
    """Returns how many times a selection has its dev prompts answered, the model before training and scales
    of the kept adapter included; 0 without one.
    """
    select = config.realign.select
    if not select.steps:
        return 0
    steps = training_steps(sum(load.trained.values()), config.realign)
    return 1 + math.ceil(steps / select.steps) + len({*select.scales} - {1.0})
