"""Chunks hold a bounded number of bytes, prompts included, whatever the kind of file and whatever is long."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.read import Source, read_sources
from trace_ray.storage.location import Location, locate

ROWS = 120
LONG = 64 << 10
LIMIT = 1 << 20


def written(kind: str, long: str, path: Path) -> Location:
    """One batch, one row group: the writer's pieces are no help."""
    texts = {
        name: [f"{name} {i} " * (LONG // 12 if name == long else 1) for i in range(ROWS)]
        for name in ("prompt", "chosen", "rejected")
    }
    table = pa.table(texts)
    file = path / f"x.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif kind == "parquet":
        pq.write_table(table, file)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return locate(str(file), StorageConfig())


@pytest.mark.parametrize("long", ["prompt", "chosen"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_a_chunk_holds_as_many_bytes_as_asked_for_and_a_row_more_at_most(kind: str, long: str, tmp_path: Path) -> None:
    source = Source(written(kind, long, tmp_path), 0, "")
    chunks = list(read_sources([source], CorpusConfig(), 0, LIMIT))
    assert sum(chunk.pairs.num_rows for chunk in chunks) == ROWS
    assert max(chunk.pairs.nbytes for chunk in chunks) < LIMIT + 2 * LONG
    assert len(chunks) == pytest.approx(ROWS * LONG / LIMIT, abs=3)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_the_rows_of_one_large_batch_are_not_all_in_memory_at_once(kind: str, tmp_path: Path) -> None:
    source = Source(written(kind, "prompt", tmp_path), 0, "")
    tracemalloc.start()
    for chunk in read_sources([source], CorpusConfig(), 0, LIMIT // 4):
        del chunk
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * LIMIT + ROWS * LONG / 4
