"""Rows of a few small parts at a time: what a look takes a call is then small beside what it takes a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

ROWS = 1 << 15
"""Held at a time, and those of one part more."""


def stretches(read: Callable[[str], pa.Table], names: Sequence[str]) -> Iterator[pa.Table]:
    """Yields the rows of parts, in the parts' and their own order, at least ROWS at once but for the last.

    ``part`` and ``at`` say where each is from, ``place`` is its number in the table.
    """
    held: list[pa.Table] = []
    for name in sorted(names):
        table = read(name)
        where = {"part": pa.repeat(name, len(table)), "at": np.arange(len(table))}
        held.append(pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **where}))
        if sum(map(len, held)) >= ROWS:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    whole = pa.concat_tables(tables, promote_options="default").combine_chunks()
    return whole.append_column("place", pa.array(np.arange(len(whole))))
