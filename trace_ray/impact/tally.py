"""What a shard tells of its rows besides the rows: counts, exact sums and a sample, which add up in any order.

Sums of weights are kept as fractions, so that the total of a run is the same to the bit however its rows were cut to shards,
whoever scored them, and whatever a resume found done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trace_ray.chat.told import cut_counts
from trace_ray.pairs import RESPONSE_NAMES, hash_fraction
from trace_ray.storage import traffic

Floats = npt.NDArray[np.float64]

IMPACTS_KEPT = 1 << 16
"""Impacts of which quantiles are taken: of a run with more weighed pairs, a sample of about as many."""


def exact_sum(values: Floats) -> Fraction:
    """Returns the sum of finite numbers without rounding.

    >>> exact_sum(np.array([1e300, 1.0, -1e300])) == 1
    True
    """
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64)
    total = Fraction(0)
    for power in np.unique(exponent).tolist():
        mine = whole[exponent == power]  # of 53 bits: halves add up in 64 without overflow
        summed = (int((mine >> 26).sum()) << 26) + int((mine & ((1 << 26) - 1)).sum())
        total += summed * Fraction(2) ** (power - 53)
    return total


def kept_share(weighed: int) -> float:
    """Returns the share of the weighed pairs whose impacts are kept for quantiles."""
    return min(1.0, IMPACTS_KEPT / max(1, weighed))


@dataclass(frozen=True)
class Impacts:
    """The impacts of one category's pairs; w is max(0, impact).

    Args:
        count: pairs; broken: those whose impact is not finite, which count in nothing else.
        clamped: pairs of w = 0; weight, squares: sums of w and of w^2.
        low, high: of all; sample: the impacts of the pairs that a hash draws, sorted.
    """

    count: int = 0
    broken: int = 0
    clamped: int = 0
    weight: Fraction = Fraction(0)
    squares: Fraction = Fraction(0)
    low: float = float("inf")
    high: float = float("-inf")
    sample: Sequence[float] = ()

    def __add__(self, other: Impacts) -> Impacts:
        return Impacts(
            self.count + other.count,
            self.broken + other.broken,
            self.clamped + other.clamped,
            self.weight + other.weight,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
            sorted([*self.sample, *other.sample]),
        )


def impacts_of(impact: Floats, drawn: npt.NDArray[np.bool_]) -> Impacts:
    """Returns the Impacts of some pairs of one category.

    Args:
        impact: of each pair, NaN where it has none; drawn: which of them the sample holds.
    """
    known = np.isfinite(impact)
    finite = impact[known]
    weight = np.maximum(0.0, finite)
    return Impacts(
        count=len(impact),
        broken=int((~known).sum()),
        clamped=int((weight == 0).sum()),
        weight=exact_sum(weight),
        squares=exact_sum(weight * weight),
        low=float(finite.min(initial=np.inf)),
        high=float(finite.max(initial=-np.inf)),
        sample=np.sort(impact[known & drawn]).tolist(),
    )


@dataclass(frozen=True)
class Tally:
    """Counts of scored rows.

    Args:
        rows: by category; cuts: ``chat.told.cut_counts``; refused: rows by reason.
        tokens: of responses; impacts: by weighed category.
        compared: rows with a CHES, by category; both_ways: those of them whose CHES per token is above 0.
        traffic: requests made of object stores since the process' tally before, and their bytes.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    cuts: Mapping[str, int] = field(default_factory=lambda: cut_counts([]))
    refused: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    impacts: Mapping[str, Impacts] = field(default_factory=dict)
    compared: Mapping[str, int] = field(default_factory=dict)
    both_ways: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        names = dict.fromkeys([*self.impacts, *other.impacts])
        return Tally(
            _sum(self.rows, other.rows),
            _sum(self.cuts, other.cuts),
            _sum(self.refused, other.refused),
            self.tokens + other.tokens,
            {name: self.impacts.get(name, Impacts()) + other.impacts.get(name, Impacts()) for name in names},
            _sum(self.compared, other.compared),
            _sum(self.both_ways, other.both_ways),
            _sum(self.traffic, other.traffic),
        )

    def dump(self) -> str:
        """Returns the tally as JSON; every number comes back as it was."""
        return json.dumps(
            vars(self) | {"impacts": {name: vars(impacts) for name, impacts in self.impacts.items()}}, default=str
        )

    @classmethod
    def load(cls, text: str) -> Tally:
        stored: dict[str, Any] = json.loads(text)
        fractions = ("weight", "squares")
        impacts = {
            name: Impacts(**kept | {sum_of: Fraction(kept[sum_of]) for sum_of in fractions})
            for name, kept in stored.pop("impacts").items()
        }
        return cls(**stored, impacts=impacts)


def _sum(counts: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    total = Counter(counts)
    total.update(other)
    return dict(sorted(total.items()))


def _counted(names: npt.NDArray[Any]) -> dict[str, int]:
    return dict(sorted(Counter(names.tolist()).items()))


def tally(
    scored: pa.Table, refused: Sequence[Mapping[str, Any]], weighed: Sequence[str], seed: int, share: float
) -> Tally:
    """Returns the tally of some scored rows and of those refused beside them.

    Args:
        weighed: categories whose pairs carry weights.
        seed, share: of the impacts' sample, which pair ids alone decide.
    """
    category = np.array(scored["category"].to_pylist(), dtype=object)
    impact = scored["impact"].to_numpy().astype(np.float64)
    alike = scored["ches_per_token"].to_numpy().astype(np.float64)
    drawn = np.array(hash_fraction(scored["pair_id"].to_pylist(), seed, "impacts")) < share
    return Tally(
        rows=_counted(category),
        cuts=cut_counts(scored["cut"].to_pylist()),
        refused=dict(sorted(Counter(row["reason"] for row in refused).items())),
        tokens=sum(len(scored[f"{name}_ids"].combine_chunks().flatten()) for name in RESPONSE_NAMES),
        impacts={
            name: impacts_of(impact[category == name], drawn[category == name])
            for name in weighed
            if (category == name).any()
        },
        compared=_counted(category[~np.isnan(alike)]),
        both_ways=_counted(category[alike > 0]),
        traffic=traffic.take(),
    )
