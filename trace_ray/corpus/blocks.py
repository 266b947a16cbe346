"""The second half of regrouping: block b holds every pair whose prompt's hash falls into its range, in corpus order.

So repeated pairs, equal responses and the verdict store's keys are a block's own business, and memory is a block's size
whatever the corpus' size. The blocks of one piece lie in one file; a block is read with one ranged request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray.corpus.read import SLOT_SCHEMA, SLOTS
from trace_ray.corpus.runs import LZ4, batches_of
from trace_ray.storage import traffic
from trace_ray.storage.at_once import side_by_side
from trace_ray.storage.location import Location

MOST_BLOCKS = 1 << 14
"""Of a corpus: each is an item of Ray Data and a few objects."""


def block_count(pairs: int, rows_per_part: int, least: int = 1) -> int:
    """Returns the number of blocks, a power of two, for blocks of half to all of ``rows_per_part`` pairs on average.

    Args:
        least: blocks that there are at least, themselves a power of two.

    >>> block_count(100_000, 2048), block_count(100, 2048, 4)
    (64, 4)
    """
    blocks = least
    while blocks * rows_per_part < pairs and blocks < MOST_BLOCKS:
        blocks *= 2
    return blocks


def power_of_two(number: float) -> int:
    """Returns the smallest power of two from ``number`` on, within 1..MOST_BLOCKS."""
    return min(MOST_BLOCKS, 1 << max(0, int(np.ceil(np.log2(max(1.0, number))))))


@dataclass(frozen=True)
class BlockFiles:
    """Where each block lies.

    Args:
        place: the pieces' folder; pieces: how many there are, of equally many blocks each.
        bounds: of each block, (start, stop) within its piece's file.
    """

    place: Location
    pieces: int
    bounds: Sequence[tuple[int, int]]

    def read(self, block: int) -> pa.Table:
        """Returns one block in SLOT_SCHEMA, ordered by row."""
        piece = block * self.pieces // len(self.bounds)
        data = (self.place / file_name(piece)).read_range(*self.bounds[block])
        return pa.Table.from_batches(batches_of(data), schema=SLOT_SCHEMA)


def file_name(piece: int) -> str:
    """Returns the name of a piece's file."""
    return f"piece-{piece:06d}.arrow"


def write_piece(
    piece: int, pieces: int, blocks: int, bounds: Mapping[str, Sequence[int]], runs: Location, out: Location
) -> dict[str, Any]:
    """Collects one piece of all runs, writes its blocks as one Arrow file below ``out`` and, last, its record.

    Args:
        bounds: {run's name: where each piece begins in it, and the end}.
    Returns: piece; pairs; bounds, of its blocks in order.
    """

    def collect(name: str) -> list[pa.RecordBatch]:
        start, stop = bounds[name][piece : piece + 2]
        return list(batches_of((runs / name).read_range(int(start), int(stop))))

    found = [batch for batches in side_by_side(collect, sorted(bounds)) for batch in batches]
    table = pa.Table.from_batches(found, schema=SLOT_SCHEMA).combine_chunks()
    owner = table["slot"].to_numpy().astype(np.int64) * blocks // SLOTS
    order = np.lexsort((table["row"].to_numpy(), owner))
    mine = np.arange(blocks // pieces + 1) + piece * (blocks // pieces)
    ends: list[tuple[int, int]] = []
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SLOT_SCHEMA, options=LZ4) as writer:
        writer.write_batch(_EMPTY)  # the schema goes before the first
        for start, stop in pairwise(np.searchsorted(owner[order], mine)):
            before = sink.tell()
            for batch in table.take(pa.array(order[start:stop])).to_batches():
                writer.write_batch(batch)
            ends.append((before, sink.tell()))
    (out / file_name(piece)).write_bytes(sink.getvalue().to_pybytes())
    record = {"piece": piece, "blocks": blocks, "pairs": table.num_rows, "bounds": ends, "traffic": traffic.take()}
    (out / f"{file_name(piece)}.json").write_text(json.dumps(record))
    return record


_EMPTY = pa.RecordBatch.from_pylist([], schema=SLOT_SCHEMA)


def records(place: Location) -> list[dict[str, Any]]:
    """Returns what tasks left as JSON in a folder when they were done, by name."""
    return [json.loads(text) for text in side_by_side(Location.read_text, place.files(".json"))]
