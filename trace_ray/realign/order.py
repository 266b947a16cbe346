"""Which sample when: a pure function of (seed, epoch, step), whatever the number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
PADDING = -1
"""Fills the last step of an epoch; costs a forward of two tokens and no gradient."""


def epoch_order(category: Sequence[str], seed: int, epoch: int) -> Indices:
    """Returns every sample's index once, shuffled, the categories spread evenly so that each step holds its share of each.

    Args:
        category: of each sample.
        seed, epoch: fix the order.
    """
    names = np.asarray(category, dtype=object)
    place = np.empty(len(names))
    for number, name in enumerate(sorted(set(category))):
        members = np.flatnonzero(names == name)
        rng = np.random.default_rng([seed, epoch, number])
        place[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable").astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a training run.

    Args:
        category: of each sample; seed: of the order; epochs: passes over all samples.
        micro_batch, accumulation, workers: their product is the samples a step.
    """

    category: tuple[str, ...]
    seed: int
    epochs: int
    micro_batch: int
    accumulation: int
    workers: int

    @property
    def step_samples(self) -> int:
        return self.micro_batch * self.accumulation * self.workers

    @property
    def epoch_steps(self) -> int:
        return -(-len(self.category) // self.step_samples)

    @property
    def steps(self) -> int:
        return self.epochs * self.epoch_steps

    def step(self, step: int) -> Indices:
        """Returns the samples of one step, padded to ``step_samples`` with PADDING."""
        epoch, within = divmod(step, self.epoch_steps)
        order = epoch_order(self.category, self.seed, epoch)
        taken = order[within * self.step_samples : (within + 1) * self.step_samples]
        return np.concatenate([taken, np.full(self.step_samples - len(taken), PADDING, np.int64)])

    def micro(self, step: int, micro_step: int, rank: int) -> Indices:
        """Returns one worker's samples of one micro-batch; over all of them they make up ``step``."""
        start = (micro_step * self.workers + rank) * self.micro_batch
        return self.step(step)[start : start + self.micro_batch]


def category_counts(category: Sequence[str]) -> dict[str, int]:
    """Returns the number of samples by category."""
    names, counts = np.unique(np.asarray(category, dtype=object), return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}
