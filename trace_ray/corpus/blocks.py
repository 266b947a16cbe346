"""Regroups the corpus by prompt: block b holds every pair whose prompt's hash falls into its range, in corpus order.

So repeated pairs, equal responses and the verdict store's keys are a block's own business, and memory is a block's size
whatever the corpus' size. Each chunk of rows read is written once, as one file with a batch for every block.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray.config import CorpusConfig
from trace_ray.corpus.read import SLOT_SCHEMA, SLOTS, Source, read_sources
from trace_ray.runtime import metrics
from trace_ray.storage.location import Location

CHUNK_BYTES = 24 << 20
_MAX_BLOCKS = 4096
_SAMPLED_ROWS = 256


@dataclass(frozen=True)
class SourceGroup:
    """Files that one task reads: one file, or all training files where a limit counts over them together."""

    index: int
    sources: tuple[Source, ...]
    limit: int

    @property
    def name(self) -> str:
        return f"group-{self.index:06d}"


def block_count(rows: int, rows_per_part: int) -> int:
    """Returns the number of blocks, a power of two, for blocks of half to all of ``rows_per_part`` rows on average.

    >>> block_count(100_000, 2048)
    64
    """
    blocks = 1
    while blocks * rows_per_part < rows and blocks < _MAX_BLOCKS:
        blocks *= 2
    return blocks


def pairs_a_row(sources: Sequence[Source], config: CorpusConfig) -> float:
    """Returns how many pairs and rejects a row makes about: 1, or what the first rows of the first file make.

    Blocks are counted before the rows are read, and ranked sets of seven make up to 21 pairs each.
    """
    if config.pairs == "best_worst" or not sources:
        return 1.0
    found = list(read_sources(sources[:1], config, _SAMPLED_ROWS, CHUNK_BYTES))
    rows = sum(chunk.rows for chunk in found)
    return 1 + sum(chunk.extra for chunk in found) / rows if rows else 1.0


def regroup(group: SourceGroup, config: CorpusConfig, blocks: int, out: Location, rejects: Location) -> dict[str, int]:
    """Writes a group's chunks below ``out``, its refused rows below ``rejects`` and, last, its record, which it returns.

    The same group writes the same files, so a task may be repeated.
    Returns: rows read, pairs and rejects beyond one a row, the sum over the numbers of all of them, chunks read, rejects.
    """
    tally: Counter[str] = Counter(rows=0, extra=0, rejects=0, row_sum=0, chunks=0)
    for number, chunk in enumerate(read_sources(group.sources, config, group.limit, CHUNK_BYTES)):
        if chunk.pairs.num_rows:
            _write_chunk(chunk.pairs, blocks, out / f"chunk-{group.index:06d}-{number:06d}.arrow")
        if chunk.rejects.num_rows:
            (rejects / f"part-read-{group.index:06d}-{number:06d}.parquet").write_parquet(chunk.rejects)
            metrics.count_each("rejects", "reason", chunk.rejects["reason"].to_pylist(), stage="triage")
        tally.update({"chunks": 1, "rejects": chunk.rejects.num_rows})
        tally.update({"rows": chunk.rows, "extra": chunk.extra})
        tally.update({"row_sum": _row_sum(chunk.pairs) + _row_sum(chunk.rejects)})
    (out / f"{group.name}.json").write_text(json.dumps(tally))
    return dict(tally)


def row_sum(rows: pa.ChunkedArray) -> int:
    """Returns the sum of hashes of row numbers, modulo 2^64: with the count, what tells lost and doubled rows.

    Source: the output function of SplitMix64 (Steele, Lea and Flood, 2014); no number's hash is 0, nor a simple function of
    others', as squares are: that of each file's first row would be 0, since rows are numbered from multiples of 2^40.
    """
    z = rows.to_numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((z ^ (z >> np.uint64(31))).sum(dtype=np.uint64))


def _row_sum(table: pa.Table) -> int:
    return row_sum(table["row"])


def _write_chunk(pairs: pa.Table, blocks: int, place: Location) -> None:
    owner = pairs["slot"].to_numpy().astype(np.int64) * blocks // SLOTS
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(blocks + 1))
    ordered = pairs.take(pa.array(order)).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SLOT_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for start, stop in pairwise(bounds):
            batches = ordered.slice(start, stop - start).to_batches()
            writer.write_batch(batches[0] if batches else _EMPTY)
    place.write_bytes(sink.getvalue().to_pybytes())


_EMPTY = pa.RecordBatch.from_pylist([], schema=SLOT_SCHEMA)


def finished_groups(out: Location) -> dict[str, dict[str, Any]]:
    """Returns {group's name: record} of the groups that are wholly written."""
    return {place.name.removesuffix(".json"): json.loads(place.read_text()) for place in out.files(".json")}


def read_block(out: Location, block: int) -> pa.Table:
    """Returns one block in SLOT_SCHEMA, ordered by row."""
    tables = [pa.Table.from_batches([batch], schema=SLOT_SCHEMA) for batch in _batches(out.files(".arrow"), block)]
    table = pa.concat_tables(tables) if tables else SLOT_SCHEMA.empty_table()
    return table.sort_by("row").combine_chunks()


def _batches(chunks: Sequence[Location], block: int) -> Iterator[pa.RecordBatch]:
    for chunk in chunks:
        with chunk.fs.open_input_file(chunk.path) as file, pa.ipc.open_file(file) as reader:
            yield reader.get_batch(block)
