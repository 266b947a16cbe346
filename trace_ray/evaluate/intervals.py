"""95 % intervals: percentile bootstrap over prompts, paired where two models answered the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TAIL = 0.025
_CHUNK_CELLS = 1 << 24
"""Resamples are drawn in chunks of this many numbers, 128 MiB."""


def bootstrap_interval(values: Sequence[float] | Floats, resamples: int, seed: int) -> tuple[float, float]:
    """Returns the 2.5th and 97.5th percentile of the mean over resamples drawn with replacement.

    Where all values are equal, resampling sees no spread at all; for shares (all 0 or all 1) the exact binomial bound is
    returned instead, which is what n equal answers really say.

    Args:
        values: one a prompt: 0 or 1, or the difference of two such.
        resamples: how many; seed: fixes them.
    """
    values_N = np.asarray(values, np.float64)
    count = len(values_N)
    if not count:
        return (float("nan"), float("nan"))
    if values_N.min() == values_N.max():
        return equal_interval(float(values_N[0]), count)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // count)
    means = [
        values_N[rng.integers(0, count, (min(step, resamples - at), count))].mean(1) for at in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(means), [TAIL, 1 - TAIL])
    return float(low), float(high)


def equal_interval(value: float, count: int) -> tuple[float, float]:
    """Returns the interval of a share that is ``value`` in each of ``count`` cases: Clopper-Pearson for 0 or 1, else Wilson.

    For n of n it begins at the smallest share that has n successes in a row with a chance of 2.5 %. A share between, such as
    that of ties only, is taken for ``count`` draws at that share: the cases themselves show no spread to go by.

    Source: Wilson, Probable Inference (1927), the score interval.
    """
    bound = TAIL ** (1 / count)
    if value == 1.0:
        return bound, 1.0
    if value == 0.0:
        return 0.0, 1 - bound
    z = NormalDist().inv_cdf(1 - TAIL)
    centre, spread = value + z**2 / (2 * count), z * (value * (1 - value) / count + (z / (2 * count)) ** 2) ** 0.5
    return (centre - spread) / (1 + z**2 / count), (centre + spread) / (1 + z**2 / count)


def change_interval(before: Sequence[float], after: Sequence[float], resamples: int, seed: int) -> tuple[float, float]:
    """Returns the interval of mean(after) - mean(before), prompt by prompt paired.

    Args:
        before, after: 0 or 1 for each prompt, in the same order.
    """
    change_N = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    if not len(change_N) or change_N.min() != change_N.max():
        return bootstrap_interval(change_N, resamples, seed)
    bound = TAIL ** (1 / len(change_N))
    match float(change_N[0]):
        case 1.0:
            return bound, 1.0
        case -1.0:
            return -1.0, -bound
    return bound - 1, 1 - bound
