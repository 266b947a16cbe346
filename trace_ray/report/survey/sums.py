"""Values that add up to the same in any order and by any grouping, so that parts may be looked at anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import add
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Addable(Protocol):
    """What adds to its like."""

    def __add__(self, other: Self, /) -> Self: ...


Summand = TypeVar("Summand", bound=Addable)
Key = TypeVar("Key")
Value = TypeVar("Value")


class Sums(dict[Key, Summand]):
    """Summands by key; two of these add up key by key."""

    def __add__(self, other: Sums[Key, Summand]) -> Sums[Key, Summand]:
        both = {key: self[key] + value if key in self else value for key, value in other.items()}
        return Sums({**self, **both})


class Found(dict[Key, Value]):
    """What was found, by a key that comes up once; two of these add up to what both found."""

    def __add__(self, other: Found[Key, Value]) -> Found[Key, Value]:
        return Found({**self, **other})


class Sum:
    """Gives a frozen dataclass of summands their sum, field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class First:
    """The entries that come first, of each kind.

    Args:
        size: how many of a kind are kept; kept: {kind: entries in order}. No two entries are alike.
    """

    size: int
    kept: Mapping[Any, Sequence[tuple[Any, ...]]] = field(default_factory=dict)

    def __add__(self, other: First) -> First:
        size, kinds = max(self.size, other.size), dict.fromkeys([*self.kept, *other.kept])
        both = {kind: sorted([*self.kept.get(kind, ()), *other.kept.get(kind, ())])[:size] for kind in kinds}
        return First(size, both)


def first(size: int, entries: Iterable[tuple[Any, tuple[Any, ...]]]) -> First:
    """Returns the First of (kind, entry)s, of a kind no more than ``size``."""
    kept: dict[Any, list[tuple[Any, ...]]] = {}
    for kind, entry in entries:
        kept.setdefault(kind, []).append(entry)
    return First(size, {kind: sorted(found) for kind, found in kept.items()})


def lowest(table: pa.Table, groups: Sequence[str], key: str, size: int) -> pa.Table:
    """Returns the ``size`` rows of lowest ``key`` of each group of rows alike in the columns ``groups``."""
    group = np.zeros(len(table), np.int64)
    for name in groups:
        coded = pc.dictionary_encode(table[name], null_encoding="encode").combine_chunks()
        group = group * max(1, len(coded.dictionary)) + coded.indices.to_numpy()
    order = pc.sort_indices(table[key]).to_numpy()
    order = order[np.argsort(group[order], kind="stable")]
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return table.take(pa.array(order[place < size]))


def added(parts: Iterable[Summand], nothing: Summand) -> Summand:
    """Returns the sum, added up like a tournament: large sums meet few times. log2(parts) of them are held."""
    rounds: list[tuple[int, Summand]] = []
    for one in parts:
        level, total = 0, one
        while rounds and rounds[-1][0] == level:
            level, total = level + 1, rounds.pop()[1] + total
        rounds.append((level, total))
    return reduce(add, (total for _, total in rounds), nothing)
