"""Many numbers in little memory: exact where few differ, else to as many binary digits as there is room for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

MOST = 1 << 15
"""Different numbers that are held."""
EXACT = 52
"""Binary digits of a double's mantissa."""
DIGITS = (EXACT, *range(16, 0, -1))
"""To which numbers may be cut, towards 0: to d digits the error is below 2^-d of the number. MOST numbers that lie within 16
powers of two keep 11."""


@dataclass(frozen=True, eq=False)
class Values:
    """Numbers, ascending, each with how often it is there.

    Parts of any numbers, in any order, add up to the same: the digits kept are the most by which no more than MOST of all
    of them differ.
    """

    numbers: Floats = field(default_factory=lambda: np.empty(0))
    counts: Counts = field(default_factory=lambda: np.empty(0, np.int64))
    digits: int = EXACT

    def __add__(self, other: Values) -> Values:
        numbers, counts = (
            np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("numbers", "counts")
        )
        return _fitted(numbers, counts, min(self.digits, other.digits))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def upto(self, limit: float) -> int:
        """Returns how many are at most ``limit``."""
        return int(self.counts[self.numbers <= limit].sum())

    def power_sum(self, power: int) -> float:
        """Returns the sum of the numbers' powers."""
        return float((self.numbers**power * self.counts).sum())

    def of_highest(self, pairs: float) -> float:
        """Returns the sum of the ``pairs`` highest numbers; what lies between two whole numbers of them is interpolated."""
        counted, summed = np.cumsum(self.counts[::-1]), np.cumsum((self.numbers * self.counts)[::-1])
        return float(np.interp(pairs, [0, *counted], [0.0, *summed]))

    def quantile(self, share: float) -> float:
        """Returns the least number that ``share`` of all do not exceed. Raises: IndexError where there is none."""
        counted = np.cumsum(self.counts)
        return float(self.numbers[np.searchsorted(counted, share * counted[-1])])


def values_of(numbers: Floats) -> Values:
    """Returns the Values of some numbers; what is none (NaN) is left out."""
    known = numbers[~np.isnan(numbers)]
    return _fitted(known + 0.0, np.ones(len(known), np.int64), EXACT)  # + 0.0: there is one zero


def _fitted(numbers: Floats, counts: Counts, most_digits: int) -> Values:
    order = np.argsort(numbers, kind="stable")
    numbers, counts = numbers[order], counts[order]
    for digits in DIGITS:
        cut = _cut(numbers, digits)
        starts = np.flatnonzero(np.append(True, cut[1:] != cut[:-1])[: len(cut)])
        if digits <= most_digits and len(starts) <= MOST:
            break
    return Values(cut[starts], np.add.reduceat(counts, starts) if len(starts) else counts, digits)


def _cut(numbers: Floats, digits: int) -> Floats:
    """Cut numbers stay in order, and those cut to fewer digits later are the same as if cut to these at once."""
    mask = np.int64(-1) << np.int64(EXACT - digits)
    return (numbers.view(np.int64) & mask).view(np.float64)
