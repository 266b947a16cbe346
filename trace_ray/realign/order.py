"""Which sample when: a pure function of (seed, epoch, step), the same for any number of workers and any memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from trace_ray.errors import UserError

Indices = npt.NDArray[np.int64]
Labels = Sequence[str] | npt.NDArray[Any]


def epoch_order(category: Labels, seed: int, epoch: int) -> Indices:
    """Returns every sample's index once, shuffled, the categories spread evenly so that each step holds its share of each.

    Args:
        category: of each sample.
        seed, epoch: fix the order.
    """
    labels = np.asarray(category)
    place = np.empty(len(labels))
    for number, label in enumerate(np.unique(labels)):
        members = np.flatnonzero(labels == label)
        rng = np.random.default_rng([seed, epoch, number])
        place[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable").astype(np.int64)


def share_order(category: Labels, shares: Mapping[Any, float], count: int, seed: int, epoch: int) -> Indices:
    """Returns ``count`` indices drawn from the categories in ``shares``, each category in passes over its own shuffle.

    Args:
        shares: category -> how often it is drawn, in proportion; a category not named is not drawn.
    Raises: UserError where no category in ``shares`` has a sample.
    Source: Algorithm 1, line 23: the sets are drawn from separately. A set runs out before another and starts anew.
    """
    labels = np.asarray(category)
    present = [label for label in sorted(shares) if shares[label] > 0 and (labels == label).any()]
    if not present:
        raise UserError("realign.shares", dict(shares), f"no pair to train on is {', '.join(map(str, shares))}")
    ends = np.cumsum([shares[label] for label in present])
    bounds = np.rint(count * ends / ends[-1]).astype(int)  # which add up to count, as counts rounded alone do not
    place, index = [], []
    for number, (label, taken) in enumerate(zip(present, np.diff(bounds, prepend=0).tolist(), strict=True)):
        members = np.flatnonzero(labels == label)
        passes = -(-taken // len(members))
        drawn = [np.random.default_rng([seed, epoch, number, i]).permutation(members) for i in range(passes)]
        index.append(np.concatenate([*drawn, np.empty(0, np.int64)])[:taken])
        place.append((np.arange(taken) + np.random.default_rng([seed, epoch, number]).random()) / max(1, taken))
    order = np.argsort(np.concatenate(place), kind="stable")
    drawn_order: Indices = np.concatenate(index)[order].astype(np.int64)
    return drawn_order


def by_length(
    order: Indices, category: npt.NDArray[Any], tokens: npt.NDArray[Any], batch: int, rng: np.random.Generator
) -> Indices:
    """Returns ``order`` dealt anew to steps of ``batch``, so that a step holds samples of like length.

    Step j gets the j-th slice of each category by length, so shares stay even; the steps are then shuffled.
    """
    rank = np.empty(len(order))
    for name in np.unique(category[order]):
        members = np.flatnonzero(category[order] == name)
        ranked = members[np.argsort(tokens[order[members]], kind="stable")]
        rank[ranked] = (np.arange(len(members)) + 0.5) / len(members)
    like = order[np.argsort(rank, kind="stable")]
    steps = [like[start : start + batch] for start in range(0, len(like), batch)]
    whole = rng.permutation(len(like) // batch)  # the short step, if any, stays last: the others keep their size
    return np.concatenate([*(steps[i] for i in whole), *steps[len(like) // batch :]])


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """The steps of a training run.

    Args:
        category: of each sample, its name or a place in ``names``; tokens: of its longest sequence.
        seed: of the order; epochs: passes over all samples; batch: samples a step, over all workers.
        max_steps: the run ends after that many steps; 0 = after the epochs.
        window: steps whose samples are sorted by length among one another; 1 = steps stay as shuffled.
        shares: category -> share of a step; empty = each sample once an epoch.
        names: of the categories, sorted, where samples have places in them.
    """

    category: Labels
    tokens: Sequence[int] | npt.NDArray[np.int32]
    seed: int
    epochs: int
    batch: int
    max_steps: int = 0
    window: int = 1
    shares: Mapping[str, float] | None = None
    names: tuple[str, ...] = ()

    @property
    def epoch_steps(self) -> int:
        return -(-len(self.category) // self.batch)

    @property
    def steps(self) -> int:
        steps = self.epochs * self.epoch_steps
        return min(steps, self.max_steps) if self.max_steps else steps

    @cached_property
    def _orders(self) -> dict[int, Indices]:
        return {}

    def epoch(self, epoch: int) -> Indices:
        """Returns the samples of one epoch in order; the latest epoch is kept."""
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self._make_epoch(epoch)
        return self._orders[epoch]

    def _make_epoch(self, epoch: int) -> Indices:
        if self.shares:
            order = share_order(self.category, self._shares(), len(self.category), self.seed, epoch)
        else:
            order = epoch_order(self.category, self.seed, epoch)
        if self.window <= 1:
            return order
        labels, tokens = np.asarray(self.category), np.asarray(self.tokens)
        size = self.window * self.batch
        rng = np.random.default_rng([self.seed, epoch, 10**6])
        windows = [order[start : start + size] for start in range(0, len(order), size)]
        return np.concatenate([by_length(part, labels, tokens, self.batch, rng) for part in windows])

    def _shares(self) -> dict[Any, float]:
        """The shares by what ``category`` holds. Raises UserError where no sample is of any of them."""
        shares = dict(self.shares or {})
        if not self.names:
            return shares
        present = {self.names[code] for code in np.unique(self.category) if shares.get(self.names[code], 0.0) > 0}
        if not present:
            raise UserError("realign.shares", shares, f"no pair to train on is {', '.join(shares)}")
        return {self.names.index(name): shares[name] for name in present}

    def step(self, step: int) -> Indices:
        """Returns the samples of one step; the last step of an epoch may be short."""
        epoch, within = divmod(step, self.epoch_steps)
        return self.epoch(epoch)[within * self.batch : (within + 1) * self.batch]


def category_counts(category: Sequence[str]) -> dict[str, int]:
    """Returns the number of samples by category."""
    names, counts = np.unique(np.asarray(category, dtype=object), return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}
