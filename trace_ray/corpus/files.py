"""Raw rows of one corpus file, whatever its kind: JSONL (plain, .gz, .bz2, .zst), parquet or Arrow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trace_ray.errors import UserError
from trace_ray.storage import Location

COLUMNAR = (".parquet", ".arrow")
SUFFIXES = (
    *COLUMNAR,
    *(f".{kind}{end}" for kind in ("jsonl", "ndjson", "json") for end in ("", ".gz", ".bz2", ".zst")),
)
"""What a folder is searched for; a file that is named itself may be called anything and is then read as JSONL."""

_BATCH_ROWS = 1024


def raw_rows(place: Location) -> Iterator[bytes | dict[str, Any]]:
    """Yields the lines of a JSONL file that are not blank, undecoded, or the rows of a columnar file.

    Raises: UserError where the file itself cannot be read to its end, such as a cut-off .gz.
    """
    try:
        if place.path.endswith(COLUMNAR):
            for batch in _batches(place):
                yield from _dicts(batch)
        else:
            yield from _lines(place)
    except (OSError, pa.ArrowException, EOFError) as error:
        raise _unreadable(place, error) from None


def count_rows(place: Location) -> int:
    """Returns the number of rows of one file, without parsing them: what triage must account for."""
    try:
        if place.path.endswith(".parquet"):
            return int(pq.read_metadata(place.path, filesystem=place.fs).num_rows)
        if place.path.endswith(".arrow"):
            return sum(batch.num_rows for batch in _batches(place))
        return sum(1 for _ in _lines(place))
    except (OSError, pa.ArrowException, EOFError) as error:
        raise _unreadable(place, error) from None


def _lines(place: Location) -> Iterator[bytes]:
    with place.fs.open_input_stream(place.path, compression="detect") as stream:
        for line in io.BufferedReader(stream, 1 << 20):
            if not line.isspace():
                yield line


def _dicts(batch: pa.RecordBatch) -> Iterator[bytes | dict[str, Any]]:
    """A row whose text is no UTF-8 comes as bytes that are none either, so that it is refused alone."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                yield from batch.slice(i, 1).to_pylist()
            except UnicodeDecodeError:
                yield b"\xff"


def _batches(place: Location) -> Iterator[pa.RecordBatch]:
    if place.path.endswith(".parquet"):
        with pq.ParquetFile(place.path, filesystem=place.fs) as file:
            yield from file.iter_batches(batch_size=_BATCH_ROWS)
        return
    with place.fs.open_input_stream(place.path, compression=None) as stream:
        magic = bytes(stream.read(6))
    if magic == b"ARROW1":
        with place.fs.open_input_file(place.path) as file, pa.ipc.open_file(file) as reader:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)
    else:
        with place.fs.open_input_stream(place.path, compression=None) as stream, pa.ipc.open_stream(stream) as reader:
            yield from reader


def _unreadable(place: Location, error: Exception) -> UserError:
    seen = " ".join(str(error).split())[:200]
    return UserError("corpus.paths", place.uri, f"cannot be read to its end: {seen}")
