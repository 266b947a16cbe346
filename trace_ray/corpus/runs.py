"""The first half of regrouping: what a task reads becomes a few runs, each ordered by the pieces that prompts fall into.

A run is a file of Arrow messages; ``bounds`` tell which of its bytes belong to which piece, so that a piece is collected
from all runs with one ranged request each. Memory is a run's compressed bytes and one chunk.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray.config import CorpusConfig
from trace_ray.corpus.read import SLOT_SCHEMA, SLOTS
from trace_ray.corpus.row_sums import row_sum
from trace_ray.corpus.units import SourceGroup
from trace_ray.pairs import REJECT_SCHEMA
from trace_ray.runtime import metrics
from trace_ray.storage import traffic
from trace_ray.storage.location import Location

CHUNK_BYTES = 24 << 20
LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def read_group(
    group: SourceGroup, config: CorpusConfig, pieces: int, run_bytes: int, out: Location, rejects: Location
) -> dict[str, Any]:
    """Writes a group's runs below ``out``, its refused rows below ``rejects`` and, last, its record, which it returns.

    The same group writes the same files, so a task may be repeated.
    Returns: rows read, pairs and rejects beyond one a row; the sum over the numbers of all, and of the rejects alone;
        reasons, {why refused: rows}; runs, {name: bounds}; parts, names of files of rejects.
    """
    tally: Counter[str] = Counter(rows=0, extra=0, rejects=0, row_sum=0, refused_sum=0)
    runs: dict[str, list[int]] = {}
    refused, run = [REJECT_SCHEMA.empty_table()], _Run(pieces)

    def finish() -> None:
        name = f"run-{group.index:06d}-{len(runs):06d}"
        runs[name] = run.write(out / name)

    for chunk in group.chunks(config, CHUNK_BYTES):
        refused.append(chunk.rejects)
        tally.update(rows=chunk.rows, extra=chunk.extra, rejects=chunk.rejects.num_rows)
        tally.update(row_sum=row_sum(chunk.pairs["row"]) + row_sum(chunk.rejects["row"]))
        tally.update(refused_sum=row_sum(chunk.rejects["row"]))
        if chunk.pairs.num_rows:
            run.add(chunk.pairs)
        if run.size >= run_bytes:
            finish()
            run = _Run(pieces)
    if run.size:
        finish()
    rows = pa.concat_tables(refused)
    parts = [f"part-read-{group.index:06d}.parquet"] if rows.num_rows else []
    for part in parts:
        (rejects / part).write_parquet(rows)
    reasons = Counter(rows["reason"].to_pylist())
    metrics.count_each("rejects", "reason", rows["reason"].to_pylist(), stage="triage")
    record = dict(tally) | {
        "group": group.name,
        "reasons": dict(reasons),
        "runs": runs,
        "parts": parts,
        "traffic": traffic.take(),
    }
    (out / f"{group.name}.json").write_text(json.dumps(record))
    return record


@dataclass
class _Run:
    """Messages of one run, by piece; ``size``: bytes of text in them."""

    pieces: int
    size: int = 0
    messages: dict[int, list[Any]] = field(default_factory=dict)

    def add(self, pairs: pa.Table) -> None:
        """Adds a chunk: a message for each piece that it has pairs of, in the corpus' order."""
        owner = pairs["slot"].to_numpy().astype(np.int64) * self.pieces // SLOTS
        order = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[order], np.arange(self.pieces + 1))
        (ordered,) = pairs.take(pa.array(order)).combine_chunks().to_batches()
        self.size += pairs.nbytes
        sink = pa.BufferOutputStream()
        ends: dict[int, tuple[int, int]] = {}
        with pa.ipc.new_stream(sink, SLOT_SCHEMA, options=LZ4) as writer:
            writer.write_batch(ordered.slice(0, 0))  # the schema goes before the first
            for piece, (start, stop) in enumerate(pairwise(bounds)):
                if stop > start:
                    before = sink.tell()
                    writer.write_batch(ordered.slice(start, stop - start))
                    ends[piece] = (before, sink.tell())
        data = memoryview(sink.getvalue())
        for piece, (start, stop) in ends.items():
            self.messages.setdefault(piece, []).append(data[start:stop])

    def write(self, place: Location) -> list[int]:
        """Writes the run; returns where each piece begins, and the end."""
        found = [self.messages.get(piece, []) for piece in range(self.pieces)]
        place.write_bytes(b"".join(message for piece in found for message in piece))
        return list(accumulate((sum(map(len, piece)) for piece in found), initial=0))


def batches_of(data: bytes) -> Iterator[pa.RecordBatch]:
    """Yields the batches of consecutive messages."""
    reader = pa.BufferReader(data)
    while reader.tell() < len(data):
        yield pa.ipc.read_record_batch(pa.ipc.read_message(reader), SLOT_SCHEMA)
