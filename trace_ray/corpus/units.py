"""The corpus cut into units of reading: a whole file, some row groups of a parquet file, a range of a file of lines.

How it is cut is a function of the files alone, so that a resume cuts the same; what it is cut into changes no row, since
rows are numbered by their place in their file. Rows are counted from footers; only ranges of lines have to be counted by
reading, to number those that follow, and what a limit counts over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.files import count_rows, lines_between, raw_rows, readable_kind, row_groups
from trace_ray.corpus.kinds import Form
from trace_ray.corpus.read import Chunk, NumberedRow, Source, read_numbered
from trace_ray.pairs import Split

_UNPACKED = 5
"""Bytes of text that a byte of a compressed file makes about."""
_TRADE = 1 << 20
_LEAST, _MOST = 16 << 20, 256 << 20
UNKNOWN = -1


@dataclass(frozen=True)
class Unit:
    """Consecutive rows of one file.

    Args:
        file: the source's index; first: the first row's place in the file; rows: how many, UNKNOWN = to the end.
        size: bytes of their text, about.
        groups: of a parquet file, start..stop; span: bytes start..stop of a file of lines, those that begin there; None =
            the whole file.
    """

    file: int
    first: int = 0
    rows: int = UNKNOWN
    size: int = 0
    groups: tuple[int, int] | None = None
    span: tuple[int, int] | None = None

    def rows_of(self, source: Source) -> Iterator[NumberedRow]:
        """Yields the unit's rows with their numbers in the file. Raises: RuntimeError where there are fewer than counted."""
        most = None if self.rows == UNKNOWN else self.rows
        seen = 0
        if most != 0:
            found = lines_between(source.place, *self.span) if self.span else raw_rows(source.place, groups=self.groups)
            for seen, raw in enumerate(islice(found, most), 1):
                yield source, self.first + seen - 1, raw
        if most is not None and seen != most:
            raise RuntimeError(f"{source.place.uri}: {most} rows counted from {self.first}, {seen} read")


@dataclass(frozen=True)
class Outline:
    """What a file's end, or its beginning, says of its rows.

    Args:
        sizes, rows: of its row groups; of another kind of file its own size alone.
        divisible: whether it may be cut anywhere: plain JSON lines.
    """

    sizes: tuple[int, ...]
    rows: tuple[int, ...] = ()
    divisible: bool = False

    @property
    def size(self) -> int:
        return sum(self.sizes)


def outline(source: Source) -> Outline:
    """Returns a file's outline from a few small reads. Raises: UserError where no row can be read of such a file."""
    place, kind = source.place, readable_kind(source.place, "corpus.paths")
    if kind.form is Form.PARQUET:
        groups = row_groups(place)
        return Outline(tuple(size for _, size in groups), tuple(rows for rows, _ in groups))
    size = int(place.fs.get_file_info(place.path).size or 0)
    plain = not kind.compression and kind.encoding == "utf-8" and kind.line_end == "\n"
    return Outline((size * (_UNPACKED if kind.compression else 1),), divisible=plain and kind.form is Form.LINES)


def piece_bytes(total: int) -> int:
    """Returns the bytes of text that one task reads, and that blocks are regrouped by.

    Each of total / piece runs is read once for each of as many pieces: requests grow with the square, memory with the piece.
    So the piece grows with the root: about one request a MiB, as far as a worker's memory goes.

    >>> [piece_bytes(size) >> 20 for size in (1 << 20, 1 << 30, 10 << 30, 1 << 40)]
    [16, 32, 101, 256]
    """
    return max(_LEAST, min(_MOST, math.isqrt(total * _TRADE)))


def cut(file: int, found: Outline, piece: int) -> list[Unit]:
    """Returns one file in units of at most ``piece`` bytes where it can be cut; ranges of lines are still to be counted."""
    if found.rows:
        return _row_groups(file, found, piece)
    if not found.divisible or found.size <= 2 * piece:
        return [Unit(file, size=found.size)]
    bounds = [*range(0, found.size, piece), found.size]
    return [Unit(file, size=b - a, span=(a, b)) for a, b in pairwise(bounds)]


def _row_groups(file: int, found: Outline, piece: int) -> list[Unit]:
    starts, size = [0], 0
    for i, more in enumerate(found.sizes):
        if size and size + more > piece:
            starts.append(i)
            size = 0
        size += more
    before = [0, *accumulate(found.rows)]
    return [
        Unit(file, before[a], before[b] - before[a], sum(found.sizes[a:b]), (a, b))
        for a, b in pairwise([*starts, len(found.rows)])
    ]


def counted(units: Sequence[Unit], count: Callable[[Sequence[Unit]], Iterable[int]], limits: bool) -> list[Unit]:
    """Returns the units with the rows of those that need it: ranges of lines, and all where a limit counts over them.

    Args:
        units: of all files, in order; count: gives each unit's rows (``count_unit``), in order.
    """
    asked = [i for i, unit in enumerate(units) if unit.rows == UNKNOWN and (unit.span or limits)]
    found = list(units)
    for i, rows in zip(asked, count([units[i] for i in asked]), strict=True):
        found[i] = replace(units[i], rows=rows)
    for i, unit in enumerate(found[1:], 1):
        if unit.span and found[i - 1].file == unit.file:
            found[i] = replace(unit, first=found[i - 1].first + found[i - 1].rows)
    return found


def count_unit(unit: Unit, source: Source) -> int:
    """Returns the rows of a unit of unknown number."""
    return sum(1 for _ in lines_between(source.place, *unit.span)) if unit.span else count_rows(source.place)


def limited(units: Sequence[Unit], sources: Mapping[int, Source], limit: int) -> list[Unit]:
    """Returns the units of the first ``limit`` training rows (0 = all), and all that are held out."""
    if not limit:
        return list(units)
    train = [unit for unit in units if sources[unit.file].split != Split.TEST]
    before = accumulate((unit.rows for unit in train), initial=0)
    kept = [
        replace(unit, rows=min(unit.rows, limit - seen))
        for unit, seen in zip(train, before, strict=False)
        if seen < limit
    ]
    return [*kept, *(unit for unit in units if sources[unit.file].split == Split.TEST)]


@dataclass(frozen=True)
class SourceGroup:
    """Units that one task reads, all of training files or all of held-out ones."""

    index: int
    sources: tuple[Source, ...]
    units: tuple[Unit, ...]

    @classmethod
    def of(cls, index: int, units: Sequence[Unit], sources: Mapping[int, Source]) -> SourceGroup:
        """Returns a group with those of the ``sources``, by their index, that its units are of."""
        return cls(index, tuple(sources[file] for file in dict.fromkeys(unit.file for unit in units)), tuple(units))

    @property
    def name(self) -> str:
        return f"group-{self.index:06d}"

    def chunks(self, config: CorpusConfig, chunk_bytes: int) -> Iterator[Chunk]:
        """Yields the rows in order, in chunks of about ``chunk_bytes`` of text."""
        known = {source.index: source for source in self.sources}
        rows = (row for unit in self.units for row in unit.rows_of(known[unit.file]))
        return read_numbered(rows, config, chunk_bytes)


def grouped(units: Sequence[Unit], sources: Mapping[int, Source], piece: int) -> list[SourceGroup]:
    """Returns neighbouring units together, until they have ``piece`` bytes: many small files are one task.

    Args:
        sources: by their index.
    """
    groups: list[list[Unit]] = []
    size = 0
    for unit in units:
        joins = groups and (sources[groups[-1][0].file].split == sources[unit.file].split) and size + unit.size <= piece
        if not joins:
            groups.append([])
        size = size + unit.size if joins else unit.size
        groups[-1].append(unit)
    return [SourceGroup.of(i, group, sources) for i, group in enumerate(groups)]


def unit_of(kept: Sequence[Any]) -> Unit:
    """Returns a unit from its fields as JSON has them."""
    file, first, rows, size, groups, span = kept
    return Unit(file, first, rows, size, *(None if pair is None else (pair[0], pair[1]) for pair in (groups, span)))
